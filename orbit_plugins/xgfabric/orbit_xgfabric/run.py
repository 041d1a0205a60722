"""Be one run: what is on record of it, and what its phases work with."""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import attrs

from .journal import Journal
from .models import (
    ClusterConfig,
    ResourceConfig,
    WorkflowConfig,
    dict_to_config,
    dict_to_resource_config,
)
from .reach import Fleet
from .records import RunRecord, SimulationRecord, Verdict, Workspace
from .report import Span
from .site import Site
from .states import ClusterStatus, Level, LogEntry, WorkflowState


def time_text(moment: float) -> str:
    """Return seconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


@attrs.define(eq=False, slots=False)
class Run:
    """Hold one run; every change is on disk, and then told, before its call returns.

    ``publish`` tells the run's owner of its state. ``next_look`` is when, in seconds since the
    epoch, its pilot is looked for again.
    """

    record: RunRecord
    simulations: dict[int, SimulationRecord]
    journal: Journal
    fleet: Fleet
    site: Site
    publish: Callable[[WorkflowState], None]
    next_look: float = 0.0

    @property
    def run_id(self) -> str:
        """Return the run's id."""
        return self.record.run_id

    @property
    def state(self) -> WorkflowState:
        """Return how the run is."""
        return self.record.state

    @cached_property
    def workflow(self) -> WorkflowConfig:
        """Return the workflow as it was when the run began."""
        return dict_to_config(self.record.workflow)

    @cached_property
    def resource(self) -> ResourceConfig:
        """Return the resources as they were when the run began."""
        return dict_to_resource_config(self.record.resource)

    def cluster(self, name: str) -> ClusterConfig:
        """Return what is configured for a cluster."""
        return self.resource.cluster_configs.get(name, ClusterConfig())

    @property
    def immediate(self) -> str:
        """Return the immediate cluster, which is known once the run has verified."""
        assert self.record.immediate is not None
        return self.record.immediate

    @property
    def active(self) -> str:
        """Return the cluster at which the run works now."""
        return self.state.active_cluster or self.immediate

    @property
    def runs_at(self) -> str:
        """Return the endpoint that runs tasks for the active cluster: itself, or its pilot."""
        pilot = self.record.pilot
        return pilot.endpoint if pilot is not None and pilot.cluster == self.active else self.active

    @property
    def workspace(self) -> Workspace:
        """Return where the run's files are at the active cluster."""
        return self.record.workspaces[self.active]

    async def change(self, state: dict[str, Any] | None = None, **record: Any) -> None:
        """Change fields of the state and of the record. Raises StateUnavailable."""
        found = attrs.evolve(self.state, **(state or {}))
        self.record = attrs.evolve(self.record, state=found, **record)
        await self.journal.save(self.record)
        self.publish(found)

    async def count_tasks(self, cluster: str, number: int) -> None:
        """Note how many tasks run at a cluster, if the number has changed."""
        changed = self._counted(lambda one: number if one.name == cluster else one.tasks_running)
        if any(getattr(self.state, kind) != found for kind, found in changed.items()):
            await self.change(changed)

    def _counted(self, number: Callable[[ClusterStatus], int]) -> dict[str, list[ClusterStatus]]:
        """Return the state's clusters with other numbers of running tasks."""
        return {
            kind: [
                attrs.evolve(one, tasks_running=number(one)) for one in getattr(self.state, kind)
            ]
            for kind in ("immediate_clusters", "allocate_clusters")
        }

    async def log(self, level: Level, message: str) -> None:
        """Add a line to the state's log."""
        await self.change(self._with_line(level, message))

    async def enter(self, phase: str, progress: float, message: str, site: str = "") -> None:
        """Go on to a phase at a cluster: the one before ends at the moment at which it begins.

        Going on after a restart with the phase that was left begins no other.
        """
        last = self.record.current
        if last is not None and (last.phase, last.site) == (phase, site):
            return
        now = time.time()
        state = {"phase": phase, "progress": progress, "message": message}
        await self.change(
            {**state, **self._with_line("info", message)},
            spans=self.spans(now),
            current=Span(phase, site, now, now),
        )

    async def end(self, verdict: Verdict) -> None:
        """Note that the run is over."""
        now = time.time()
        level: Level = "info" if verdict.error is None else "error"
        line = self._with_line(level, verdict.error or verdict.message)
        state = {
            **attrs.asdict(verdict),
            **self._counted(lambda _: 0),
            "phase": verdict.status,
            "end_time": time_text(now),
            "progress": self.state.progress if verdict.error else 100.0,
        }
        await self.change({**state, **line}, spans=self.spans(now), current=None, ended=now)

    async def add_span(self, span: Span) -> None:
        """Note how long a task, or a pilot in its queue, took."""
        await self.change(spans=[*self.record.spans, span])

    async def finish(self, step: str) -> None:
        """Note that a step needs no repetition."""
        await self.change(finished=[*self.record.finished, step])

    async def keep_simulations(self, found: Iterable[SimulationRecord]) -> None:
        """Note what became of simulations. Raises StateUnavailable."""
        changed = list(found)
        await self.journal.save_simulations(self.run_id, changed)
        self.simulations.update({one.number: one for one in changed})

    def spans(self, now: float) -> list[Span]:
        """Return what the run has spent its time on, the present phase included."""
        return [*self.record.spans, *self._closed(now)]

    def _closed(self, now: float) -> list[Span]:
        current = self.record.current
        return [] if current is None else [attrs.evolve(current, ended=now)]

    def _with_line(self, level: Level, message: str) -> dict[str, Any]:
        entry = LogEntry(datetime.now(UTC).strftime("%H:%M:%S"), level, message)
        return {"log": self.state.logged(entry).log}
