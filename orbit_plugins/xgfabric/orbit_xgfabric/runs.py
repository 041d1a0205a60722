"""Own the runs of one plugin: start, resume and stop them, and clear up after each.

Whatever ends a run, what it has left at clusters goes with it: at once, or when a cluster, or this
endpoint, comes back.
"""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.to_thread
import attrs

from orbit_core import PluginContext
from orbit_core.errors import OrbitError, StateUnavailable

from .acquisition import remove_local
from .engine import carry_out, release, release_files
from .journal import Journal, Kept
from .models import dict_to_config
from .pilots import leave_queue
from .plans import Plan
from .reach import Fleet
from .records import Verdict
from .run import Run
from .site import Site
from .states import WorkflowState

logger = logging.getLogger(__name__)

CLEARING = 10.0
"""Seconds that a run's end waits for what it has left to be cleared away; more goes on behind."""

RELEASE_PATIENCE = 24 * 3600.0
"""Seconds for which a cluster that is away is asked again to end what a run has left there."""

STOPPED = Verdict("failed", "stopped", "cancelled by user")

Publish = Callable[[WorkflowState], None]


@attrs.define(eq=False)
class Live:
    """Be a run that is not over."""

    run: Run
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)
    over: anyio.Event = attrs.field(factory=anyio.Event)
    how: Verdict = STOPPED

    async def stop(self, how: Verdict = STOPPED) -> None:
        """End it so, and return when it is over."""
        self.how = how
        self.scope.cancel()
        await self.over.wait()


class Runs:
    """Keep the runs of one plugin instance, one at a time for each holder."""

    def __init__(self, context: PluginContext) -> None:
        """Use the plugin's documents, and its host's link."""
        self.fleet = Fleet()
        self.journal = Journal(context)
        self._context = context
        self._live: dict[str, Live] = {}
        self._holders: set[str] = set()

    def live(self, holder: str) -> Live | None:
        """Return a holder's run that is not over."""
        found = self._live.get(holder)
        return None if found is None or found.over.is_set() else found

    async def start(self, holder: str, publish: Publish, plan: Plan) -> Live:
        """Begin a run, and return it once it is on disk; the holder has none that is not over.

        Raises StateUnavailable.
        """
        live = self._live[holder] = Live(self._run(Kept(plan.record(holder)), publish))
        try:
            with anyio.CancelScope(shield=True):  # what is on disk is carried out
                await live.run.enter("initializing", 0.0, f"workflow {plan.workflow.name} begins")
        except StateUnavailable:
            live.over.set()
            self.journal.discard(live.run.run_id)
            raise
        self._context.background(self._live_through, live)
        return live

    def adopt(self, holder: str, publish: Publish) -> None:
        """Take the runs of a session up where a restart left them."""
        self._holders.add(holder)
        for kept in self.journal.of(holder):
            self._resume(kept, publish)

    def clear_orphans(self) -> None:
        """Clear up after runs whose sessions did not outlive a restart."""
        for kept in self.journal.all():
            if kept.record.holder not in self._holders:
                kept.record = attrs.evolve(kept.record, verdict=kept.record.verdict or STOPPED)
                self._resume(kept, _tell_nobody)

    async def close(self, holder: str) -> None:
        """Stop what runs for a session that ends, and forget it, with its files at clusters."""
        self._holders.discard(holder)
        live = self.live(holder)
        if live is not None:
            await live.stop()
        for kept in self.journal.of(holder):
            self._context.background(self._tidy, self._run(kept, _tell_nobody))

    def _resume(self, kept: Kept, publish: Publish) -> None:
        run = self._run(kept, publish)
        if kept.record.ended is None:
            live = self._live[kept.record.holder] = Live(run)
            self._context.background(self._live_through, live)
        else:
            self._context.background(self._tidy, run)

    def _run(self, kept: Kept, publish: Publish) -> Run:
        record = kept.record
        site = Site(
            self._context.hub,
            f"xgfabric.{record.run_id}",
            f"xgfabric.{record.holder}",
            dict_to_config(record.workflow).timeouts.away,
        )
        return Run(record, dict(kept.simulations), self.journal, self.fleet, site, publish)

    async def _live_through(self, live: Live) -> None:
        """Be with a run to its end, and after."""
        run = live.run
        verdict = run.record.verdict
        if verdict is None:
            verdict = await self._verdict(live)
            await _written(run.change(verdict=verdict))
        await _written(run.enter("clearing", run.state.progress, "clearing up"))
        await _written(leave_queue(run))
        with anyio.move_on_after(CLEARING):
            await self._release(run)
        await _written(run.end(verdict))
        live.over.set()
        await self._tidy(run)

    async def _verdict(self, live: Live) -> Verdict:
        """Carry a run out, and return how it is to end."""
        run = live.run
        try:
            with live.scope:
                return await carry_out(run)
        except OrbitError as error:
            return Verdict("failed", f"failed in {run.state.phase}", error.detail)
        except Exception:  # a bug must not leave for ever what the run has at clusters
            logger.exception("run %s failed", run.run_id)
            reason = "the plugin failed: the log of its endpoint has the traceback"
            return Verdict("failed", f"failed in {run.state.phase}", reason)
        return live.how

    async def _release(self, run: Run) -> None:
        run.site.patience = RELEASE_PATIENCE
        await _written(release(run))

    async def _tidy(self, run: Run) -> None:
        """Clear up after a run that is over; forget the oldest, or one that nobody holds."""
        if not run.record.is_clear:
            await self._release(run)
        if run.record.holder in self._holders:
            await self._forget(self.journal.oldest(run.record.holder))
        else:
            run.site.patience = RELEASE_PATIENCE
            await _written(release_files(run))
            await self._forget([Kept(run.record, run.simulations)])

    async def _forget(self, runs: list[Kept]) -> None:
        """Remove runs, with their files at this endpoint."""
        for kept in runs:
            folder = Path(dict_to_config(kept.record.workflow).local_workspace)
            await anyio.to_thread.run_sync(remove_local, folder, kept.record.run_id)
        await _written(self.journal.forget(runs))


async def _written(act: Awaitable[None]) -> None:
    """Do what may not be written down: a full disk does not keep a run from its end."""
    try:
        await act
    except StateUnavailable as error:
        logger.error("the end of a run is not written: %s", error.detail)


def _tell_nobody(state: WorkflowState) -> None:
    """Have the state of a run without a session heard by none."""
