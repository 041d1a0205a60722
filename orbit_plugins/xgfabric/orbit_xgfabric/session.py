"""Do one user's work with workflows."""

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import attrs

from orbit_core import PluginContext, PluginSession, Topology
from orbit_core.models import EndpointInfo
from orbit_core.values import to_data

from .clusters import clusters, present
from .configs import ConfigFolder, ConfigSummary
from .continuous import Series, SeriesRecord
from .documents import Config
from .errors import InvalidWorkdir, WorkflowIdle, WorkflowRunning
from .failures import UnknownRun
from .journal import Kept
from .models import ResourceConfig, dict_to_config, dict_to_resource_config
from .plans import Plan
from .report import Report, report_on
from .runs import Runs
from .states import WorkflowState
from .templates import check_workflow

WORKDIR = "XGFABRIC_WORKDIR"
"""The environment variable that names the work directory of sessions that name none."""


@attrs.frozen
class Home:
    """Keep what a session has across restarts: its name as the holder of runs, its directory."""

    holder: str
    workdir: str


class XGFabricSession(PluginSession):
    """Hold one user's configurations and runs; when it is closed, a run that goes on is stopped.

    ``workdir`` is its work directory: else that of ``XGFABRIC_WORKDIR``, else the current one. The
    other three are kept for programs that give them: a run uses its endpoint's own link.
    """

    def __init__(
        self,
        sid: str,
        workdir: str | None = None,
        endpoint_name: str | None = None,
        bridge_url: str | None = None,
        bridge_cert: str | None = None,
        *,
        runs: Runs,
        context: PluginContext,
    ) -> None:
        """Share the plugin's runs, of which it sees its own."""
        super().__init__(sid)
        self.endpoint_name = endpoint_name or context.endpoint
        self._runs = runs
        self._context = context
        self._homes = context.documents.part("homes")
        self._home = Home("", workdir or "")
        self._folder = ConfigFolder(Path())
        self._series: Series | None = None
        self._is_starting = False
        self._told: WorkflowState | None = None

    async def start(self, *, restored: bool) -> None:
        """Find the work directory, and go on with what ran before a restart.

        Raises InvalidWorkdir.
        """
        kept = await self._homes.get(self.sid) if restored else None
        if kept is None:
            text = self._home.workdir or os.environ.get(WORKDIR) or "."
            found = await anyio.to_thread.run_sync(_directory, text)
            self._home = Home(secrets.token_hex(8), str(found))
            await self._homes.put(self.sid, attrs.asdict(self._home))
        else:
            self._home = Home(**kept)
        self._folder = ConfigFolder(Path(self._home.workdir))
        self._runs.adopt(self._home.holder, self._publish)
        series = await Series.restored(self._home.holder, self._runs, self._publish, self._context)
        if series is not None:
            self._go_on(series)

    async def close(self) -> dict[str, Any]:
        """Stop what runs, and forget it."""
        if self._series is not None:
            await self._series.stop()
        await self._runs.close(self._home.holder)
        await self._homes.delete(self.sid)
        return await super().close()

    @property
    def is_busy(self) -> bool:
        """Tell whether a run, or a series of them, goes on."""
        return self._goes_on() or self._runs.live(self._home.holder) is not None

    @property
    def workdir(self) -> Path:
        """Return the work directory."""
        return self._folder.workdir

    async def set_workdir(self, path: str) -> Path:
        """Work in another directory from now on. Raises InvalidWorkdir, StateUnavailable."""
        found = await anyio.to_thread.run_sync(_directory, path)
        home = attrs.evolve(self._home, workdir=str(found))
        with anyio.CancelScope(shield=True):  # what is on disk is also here
            await self._homes.put(self.sid, attrs.asdict(home))
            self._home = home
            self._folder = ConfigFolder(found)
        return found

    async def list_configs(self) -> list[ConfigSummary]:
        """Return the configurations in the work directory. Raises what `ConfigFolder` does."""
        return await anyio.to_thread.run_sync(self._folder.summaries)

    async def load_config(self, name: str) -> Config:
        """Return a configuration. Raises what `ConfigFolder` does."""
        return await anyio.to_thread.run_sync(self._folder.load, name)

    async def save_config(self, data: object) -> str:
        """Write a configuration, and return its name. Raises what `ConfigFolder` does."""
        return await anyio.to_thread.run_sync(self._folder.save, data)

    async def delete_config(self, name: str) -> str:
        """Delete a configuration, and return its name. Raises what `ConfigFolder` does."""
        return await anyio.to_thread.run_sync(self._folder.delete, name)

    def update_connected_endpoints(self, endpoints: Mapping[str, EndpointInfo]) -> None:
        """Take the endpoints that are connected now, by name."""
        self._runs.fleet.hear(Topology(dict(endpoints)))
        self.tell_presence()

    def tell_presence(self) -> None:
        """Tell how the run is that goes on, now that endpoints have come or gone."""
        live = self._runs.live(self._home.holder)
        if live is not None:
            self._publish(live.run.state)

    def status(self) -> WorkflowState:
        """Return how the last run is, or that there was none, with the clusters that there are."""
        kept = self._runs.journal.latest(self._home.holder)
        if kept is not None:
            return self._shown(kept.record.state)
        found = list(clusters(self._runs.fleet, ResourceConfig()))
        return WorkflowState(
            immediate_clusters=[one for one in found if one.cluster_type == "immediate"],
            allocate_clusters=[one for one in found if one.cluster_type == "allocate"],
            config_dir=str(self.workdir),
        )

    async def begin(self, workflow: str | dict[str, Any], resource: str | dict[str, Any]) -> Plan:
        """Begin a run, or a series of them if the workflow is continuous.

        Either is a configuration, or the name of one. Raises WorkflowRunning, what `ConfigFolder`
        does, InvalidConfig for a workflow that could not run to its end, and StateUnavailable.
        """
        self._check_active()
        if self.is_busy or self._is_starting:
            raise WorkflowRunning(
                f"session {self.sid} runs a workflow already: stop it, or use another session"
            )
        self._is_starting = True
        try:
            plan = await anyio.to_thread.run_sync(self._plan, workflow, resource)
            if plan.workflow.continuous is None:
                await self._runs.start(self._home.holder, self._publish, plan)
                return plan
            record = SeriesRecord(plan.document())
            series = Series(self._home.holder, record, self._runs, self._publish, self._context)
            with anyio.CancelScope(shield=True):  # what is on disk is carried out
                await series.begin()
            self._go_on(series)
            return plan
        finally:
            self._is_starting = False

    async def stop(self) -> None:
        """Stop what runs, and return when it has. Raises WorkflowIdle."""
        if not self.is_busy:
            raise WorkflowIdle(f"session {self.sid} runs no workflow: there is nothing to stop")
        if self._series is not None:
            await self._series.stop()
        live = self._runs.live(self._home.holder)
        if live is not None:
            await live.stop()

    def list_runs(self) -> list[WorkflowState]:
        """Return how the session's runs are, oldest first."""
        return [kept.record.state for kept in self._runs.journal.of(self._home.holder)]

    def report(self, run_id: str | None = None) -> Report:
        """Return where the time of a run went, the last one unless named. Raises UnknownRun."""
        kept = self._kept(run_id)
        record, now = kept.record, time.time()
        current = [] if record.current is None else [attrs.evolve(record.current, ended=now)]
        found = report_on(
            [*record.spans, *current],
            run_id=record.run_id,
            workflow=str(record.workflow["name"]),
            status=record.state.status,
            began=record.began,
            ended=record.ended or now,
        )
        return attrs.evolve(found, skipped=record.state.skipped_clusters)

    def _kept(self, run_id: str | None) -> Kept:
        journal = self._runs.journal
        found = journal.latest(self._home.holder) if run_id is None else journal.get(run_id)
        if found is None or found.record.holder != self._home.holder:
            which = "no run yet" if run_id is None else f"had no run {run_id}, or it is forgotten"
            raise UnknownRun(f"session {self.sid} has {which}")
        return found

    def _plan(self, workflow: str | dict[str, Any], resource: str | dict[str, Any]) -> Plan:
        """Return what is to be run. It blocks."""
        found = (
            self._folder.load_workflow(workflow)
            if isinstance(workflow, str)
            else dict_to_config(workflow)
        )
        check_workflow(found)
        where = (
            self._folder.load_resource(resource)
            if isinstance(resource, str)
            else dict_to_resource_config(resource)
        )
        return Plan(found, where, str(self.workdir), found.name)

    def _go_on(self, series: Series) -> None:
        self._series = series
        self._context.background(series.run)

    def _goes_on(self) -> bool:
        return self._series is not None and not self._series.is_over

    def _shown(self, state: WorkflowState) -> WorkflowState:
        found = present(self._runs.fleet, state)
        return found if self._series is None else self._series.shown(found)

    def _publish(self, state: WorkflowState) -> None:
        """Tell of a state that looks different from the one that was told before."""
        shown = self._shown(state)
        if shown != self._told:
            self._told = shown
            self.notify("workflow_status", to_data(shown))


def _directory(text: str) -> Path:
    """Return an existing directory's absolute path. It blocks. Raises InvalidWorkdir."""
    try:
        found = Path(text).expanduser().resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidWorkdir(f"the work directory {text!r} cannot be used: {error}") from None
    if not found.is_dir():
        raise InvalidWorkdir(f"the work directory {text!r} is no directory")
    return found
