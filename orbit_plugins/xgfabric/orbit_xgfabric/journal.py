"""Keep runs on disk: every change is there before anybody hears of it."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from orbit_core import PluginContext
from orbit_core.errors import InvalidBody
from orbit_core.values import as_model, to_data

from .errors import InvalidConfig
from .models import dict_to_config, dict_to_resource_config
from .records import RunRecord, SimulationRecord

logger = logging.getLogger(__name__)

RUNS_KEPT = 100
"""Runs of one holder that are over and can still be reported on; the oldest are forgotten."""


@attrs.define(eq=False)
class Kept:
    """Hold what is on disk of one run."""

    record: RunRecord
    simulations: dict[int, SimulationRecord] = attrs.field(factory=dict)


class Journal:
    """Own the runs of one plugin instance.

    A run is one document, and so is each of its simulations: what ended is written by itself. What
    a run belongs to is its holder, which is a session's own and never again another's.
    """

    def __init__(self, context: PluginContext) -> None:
        """Write to the plugin's documents, which are on disk when a write returns."""
        self._runs = context.documents.part("runs")
        self._simulations = context.documents.part("simulations")
        self._readings = context.documents.part("readings")
        self._kept: dict[str, Kept] = {}

    async def open(self) -> None:
        """Read what there is from before a restart; what cannot be read is logged."""
        for key, data in (await self._runs.items()).items():
            try:
                self._kept[key] = _read_run(data)
            except (InvalidBody, InvalidConfig) as error:
                logger.error("run %s does not come back: %s", key, error.detail)
        for key, data in (await self._simulations.items()).items():
            run_id = key.partition("/")[0]
            try:
                found = as_model(data, SimulationRecord, "simulation")
            except InvalidBody as error:
                logger.error("run %s does not come back: %s", run_id, error.detail)
                self.discard(run_id)
                continue
            if run_id in self._kept:
                self._kept[run_id].simulations[found.number] = found

    async def save(self, record: RunRecord) -> None:
        """Have a run's record on disk; it counts even if that fails. Raises StateUnavailable."""
        try:
            await self._runs.put(record.run_id, to_data(record))
        finally:
            kept = self._kept.setdefault(record.run_id, Kept(record))
            kept.record = record

    def discard(self, run_id: str) -> None:
        """Forget a run that did not get on disk."""
        self._kept.pop(run_id, None)

    async def save_simulations(self, run_id: str, found: Iterable[SimulationRecord]) -> None:
        """Have simulations of a run on disk, all or none. Raises StateUnavailable."""
        simulations = list(found)
        documents = {f"{run_id}/{one.number}": to_data(one) for one in simulations}
        await self._simulations.put_all(documents)
        self._kept[run_id].simulations.update({one.number: one for one in simulations})

    async def save_readings(self, run_id: str, text: str) -> None:
        """Have a run's wind data on disk, as CSV. Raises StateUnavailable."""
        await self._readings.put(run_id, text)

    async def readings(self, run_id: str) -> str:
        """Return a run's wind data, as CSV."""
        return str(await self._readings.get(run_id) or "")

    def all(self) -> list[Kept]:
        """Return all runs."""
        return list(self._kept.values())

    def of(self, holder: str) -> Iterator[Kept]:
        """Iterate over the runs of a holder, oldest first."""
        found = [kept for kept in self._kept.values() if kept.record.holder == holder]
        return iter(sorted(found, key=lambda kept: kept.record.began))

    def latest(self, holder: str) -> Kept | None:
        """Return the last run of a holder, None if it has had none."""
        *_, last = [None, *self.of(holder)]
        return last

    def get(self, run_id: str) -> Kept | None:
        """Return what is kept of a run."""
        return self._kept.get(run_id)

    async def forget(self, kept: Iterable[Kept]) -> None:
        """Remove runs."""
        for one in list(kept):
            run_id = one.record.run_id
            await self._simulations.delete(*(f"{run_id}/{number}" for number in one.simulations))
            await self._readings.delete(run_id)
            await self._runs.delete(run_id)
            self.discard(run_id)

    def oldest(self, holder: str) -> list[Kept]:
        """Return the oldest runs of a holder of which nothing is left, if there are too many."""
        over = [kept for kept in self.of(holder) if kept.record.is_clear]
        return over[: max(0, len(over) - RUNS_KEPT)]


def _read_run(data: Any) -> Kept:
    """Return a run that can go on.

    Raises InvalidBody, and InvalidConfig if its configurations are no valid ones any more.
    """
    record = as_model(data, RunRecord, "run")
    dict_to_config(record.workflow)
    dict_to_resource_config(record.resource)
    return Kept(record)
