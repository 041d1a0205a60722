"""Find the batch system of this host."""

import logging
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import anyio.to_thread

from orbit_core._guard import outlive

from .errors import SchedulerUnavailable
from .none import NoBatchSystem
from .pbs import AuroraPbs, PbsPro
from .slurm import Slurm
from .system import BatchSystem

logger = logging.getLogger(__name__)

GROUP = "orbit.batch_systems"
"""Entry-point group in which others name their subclass of `BatchSystem`."""

AURORA = Path("/opt/aurora")
"""A folder that there is on Aurora only."""


@cache
def batch_systems() -> tuple[BatchSystem, ...]:
    """Return all known systems in the order in which they are asked: a site's own come first.

    One that cannot be loaded is logged and left out. Reads the disk at the first call.
    """
    found: list[BatchSystem] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        with outlive(logger, "batch system %s cannot be loaded", entry.name):
            system = entry.load()()
            if not isinstance(system, BatchSystem):
                raise TypeError(f"{entry.value} is no BatchSystem")
            found.append(system)
    pbs = AuroraPbs() if AURORA.is_dir() else PbsPro()
    return (*found, Slurm(), pbs, NoBatchSystem())


def batch_system(name: str) -> BatchSystem:
    """Return the system called ``name``, as `orbit_core.HostInfo.scheduler` has it, or none."""
    return next((found for found in batch_systems() if found.name == name), NoBatchSystem())


async def find_batch_system() -> BatchSystem:
    """Return the system in whose job this process runs, else the first that answers."""
    known = await anyio.to_thread.run_sync(batch_systems)
    for system in known:
        if system.in_allocation():
            return system
    *real, none = known
    for system in real:
        if await _answers(system):
            return system
    return none


async def _answers(system: BatchSystem) -> bool:
    try:
        return await system.detect()
    except SchedulerUnavailable as error:
        logger.warning("%s is installed but does not answer: %s", system.name, error.detail)
        return False
