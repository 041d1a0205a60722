"""Count what became of a session's tasks."""

import time
from collections import Counter

import attrs

from .models import BackendStatistics, Statistics
from .task import Task


@attrs.define
class _Sums:
    states: Counter[str] = attrs.field(factory=Counter)
    wait: float = 0.0
    run: float = 0.0
    started: int = 0


class Counts:
    """Add tasks up as they end."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._backends: dict[str, _Sums] = {}
        self._first: float | None = None
        self._last = 0.0

    def begin(self) -> None:
        """Note that tasks came."""
        if self._first is None:
            self._first = time.time()

    def end(self, task: Task, state: str, finished: float) -> None:
        """Note a task's end."""
        sums = self._backends.get(task.work.backend)
        if sums is None:
            sums = self._backends[task.work.backend] = _Sums()
        sums.states[state] += 1
        self._last = finished
        if task.started is not None:
            sums.started += 1
            sums.wait += task.started - task.submitted
            sums.run += finished - task.started

    def statistics(self, unfinished: Counter[str]) -> Statistics:
        """Return the sums, with the states of the tasks that are not over."""
        found = self._backends.values()
        states = sum((sums.states for sums in found), unfinished.copy())
        started = sum(sums.started for sums in found) or 1
        ended = sum(sums.states.total() for sums in found)
        seconds = self._last - (self._first or 0.0)
        return Statistics(
            dict(states),
            {
                name: BackendStatistics(dict(sums.states), sums.wait, sums.run)
                for name, sums in self._backends.items()
            },
            rate=ended / seconds if self._first is not None and seconds > 0 else 0.0,
            mean_wait_seconds=sum(sums.wait for sums in found) / started,
            mean_run_seconds=sum(sums.run for sums in found) / started,
        )
