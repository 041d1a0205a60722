"""Run a workflow again and again: on new data, on a change of the wind, or by the clock."""

import logging
import time
from pathlib import Path
from typing import Any

import anyio
import attrs

from orbit_core.context import PluginContext
from orbit_core.errors import InvalidBody, StateUnavailable
from orbit_core.values import as_model, to_data

from .errors import InvalidConfig, SensorError
from .models import Continuous
from .plans import Plan
from .readings import Reading
from .records import Verdict
from .runs import Live, Publish, Runs
from .sensors import Acquisition, look
from .states import WorkflowState

logger = logging.getLogger(__name__)

REPLACED = Verdict("failed", "replaced", "stopped for a run on newer data")


@attrs.frozen
class SeriesRecord:
    """Keep a series on disk: its plan, and where it is.

    ``begun`` counts its runs, ``waiting`` the triggers that wait for their turn. ``seen`` is what
    the sensors had when it was last looked, ``wind`` the newest reading when the last run began.
    """

    plan: dict[str, Any]
    begun: int = 0
    waiting: int = 1
    seen: dict[str, float] = attrs.field(factory=dict)
    wind: Reading | None = None


class Series:
    """Be the series of one holder."""

    def __init__(
        self,
        holder: str,
        record: SeriesRecord,
        runs: Runs,
        publish: Publish,
        context: PluginContext,
    ) -> None:
        """Begin nothing; `run` does."""
        self._holder = holder
        self._record = record
        self._runs = runs
        self._publish = publish
        self._documents = context.documents.part("series")
        self._plan = Plan.of(record.plan)
        self._scope = anyio.CancelScope()
        self._next_look = 0.0
        self._ended = anyio.Event()
        self.is_over = False

    @classmethod
    async def restored(
        cls, holder: str, runs: Runs, publish: Publish, context: PluginContext
    ) -> "Series | None":
        """Return the series that there was before a restart, if there was one.

        One that cannot be read is logged.
        """
        data = await context.documents.part("series").get(holder)
        if data is None:
            return None
        try:
            record = as_model(data, SeriesRecord, "series")
            return cls(holder, record, runs, publish, context)
        except (InvalidBody, InvalidConfig) as error:
            logger.error("the series of %s does not come back: %s", holder, error.detail)
            return None

    @property
    def _rules(self) -> Continuous:
        return self._plan.workflow.continuous or Continuous()

    async def begin(self) -> Live:
        """Begin the first run. Raises StateUnavailable."""
        live = await self._begin_run()
        self._next_look = time.monotonic() + self._rules.interval
        return live

    async def run(self) -> None:
        """Begin a run whenever it is time, until the last or until `stop`."""
        try:
            with self._scope:
                await self._run()
            await self._documents.delete(self._holder)
        except StateUnavailable as error:
            logger.error("no more runs of %s are begun: %s", self._holder, error.detail)
        finally:
            self.is_over = True
            self._ended.set()

    async def stop(self) -> None:
        """Begin no more runs, for good; one that goes on is not touched."""
        self._scope.cancel()
        await self._ended.wait()

    async def _run(self) -> None:
        while not self._is_complete():
            live = self._runs.live(self._holder)
            if live is None and self._record.waiting:
                live = await self._begin_run()
            await self._pause(live)
            if time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + self._rules.interval
                await self._look()

    def shown(self, state: WorkflowState) -> WorkflowState:
        """Return the state of the last run as that of the series."""
        if self.is_over or state.status == "running":
            return state
        waits = f"run {self._record.begun} {state.status}; waiting for {self._rules.trigger}"
        return attrs.evolve(state, status="running", phase="waiting", message=waits)

    def _is_complete(self) -> bool:
        return self._has_enough() and self._runs.live(self._holder) is None

    def _has_enough(self) -> bool:
        return 0 < self._rules.max_runs <= self._record.begun

    async def _begin_run(self) -> Live:
        found = await self._newest() if self._rules.trigger != "timer" else None
        record = self._record
        await self._save(
            begun=record.begun + 1,
            waiting=max(0, record.waiting - 1),
            seen=_seen(found) if found else record.seen,
            wind=found.readings[-1] if found else record.wind,
        )
        return await self._runs.start(self._holder, self._publish, self._plan)

    async def _pause(self, live: Live | None) -> None:
        """Wait until it is time to look, or the run is over."""
        with anyio.move_on_after(max(0.0, self._next_look - time.monotonic())):
            await (anyio.sleep_forever() if live is None else live.over.wait())

    async def _look(self) -> None:
        """See whether the trigger fires, and have that lead to a run as the rules say."""
        rules = self._rules
        if self._has_enough() or not await self._fires():
            return
        live = self._runs.live(self._holder)
        match rules.overlap if live is not None else "queue":
            case "skip":
                logger.info("a trigger for %s is skipped, since a run goes on", self._holder)
            case "queue":
                await self._save(waiting=min(rules.queue_limit, self._record.waiting + 1))
            case "replace":
                await self._save(waiting=1)
                assert live is not None
                await live.stop(REPLACED)

    async def _fires(self) -> bool:
        if self._rules.trigger == "timer":
            return True
        found = await self._newest()
        if found is None:
            return False
        if self._rules.trigger == "new-data":
            is_new = _seen(found) != self._record.seen
            await self._save(seen=_seen(found))
            return is_new
        return self._record.wind is None or self._has_changed(self._record.wind, found.readings[-1])

    def _has_changed(self, before: Reading, now: Reading) -> bool:
        turn = abs(now.winddir - before.winddir) % 360.0
        return (
            abs(now.windspeed - before.windspeed) >= self._rules.speed_change
            or min(turn, 360.0 - turn) >= self._rules.direction_change
        )

    async def _newest(self) -> Acquisition | None:
        try:
            return await look(self._plan.workflow, Path(self._plan.workdir))
        except SensorError as error:
            logger.warning("the sensors say nothing to %s: %s", self._holder, error.detail)
            return None

    async def _save(self, **changes: Any) -> None:
        self._record = attrs.evolve(self._record, **changes)
        await self._documents.put(self._holder, to_data(self._record))


def _seen(found: Acquisition) -> dict[str, float]:
    """Return what tells new data from old."""
    if found.newest:
        return {woof: float(number) for woof, number in found.newest.items()}
    return {found.origin: found.readings[-1].dt}
