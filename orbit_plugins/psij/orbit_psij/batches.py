"""Find the schedulers of this host, for whose jobs PSI/J has executors."""

import shutil
from pathlib import Path

import psij

from orbit_core.batch import BatchSystem, NoBatchSystem, batch_system, batch_systems

from .batch import Batch
from .batch_options import DIALECTS
from .foreign import KINDS, ForeignDialect, ForeignScheduler, kind_of, make_executor
from .offer import LOCAL, Offer

_LIBRARIES = {"flux": "flux", "rp": "radical.pilot"}
"""What PSI/J drives by a Python package, and not by commands."""


def find_batches(
    scheduler: str, in_use: set[str], directory: Path
) -> tuple[Offer, dict[str, Batch]]:
    """Return what is offered beside this host's ``scheduler``, and the means to run it.

    An executor that is ``in_use``, which has jobs of before, is not given up because it is silent
    now. What jobs share is kept in ``directory``. It blocks on the disk.
    """
    found: dict[str, Batch] = {}
    missing: dict[str, str] = {}
    system = system_for(scheduler, in_use)
    for name in sorted(psij.JobExecutor.get_executor_names() - {LOCAL, system.psij_executor}):
        reason = _reason(name, system)
        if reason is None or (name in in_use and name in KINDS):
            try:
                found[name] = _foreign(name, directory)
            except ValueError as error:
                reason = str(error.__cause__ or error)
        if reason is not None:
            missing[name] = reason
    if system.family in DIALECTS:
        found[system.psij_executor] = Batch(system, DIALECTS[system.family](), directory)
    offered = {name: batch.dialect for name, batch in found.items() if name not in missing}
    return Offer(offered, missing), found


def system_for(scheduler: str, executors: set[str]) -> BatchSystem:
    """Return a host's batch system; one that is silent now may have jobs nevertheless."""
    used = (system for system in batch_systems() if system.psij_executor in executors)
    return batch_system(scheduler) if scheduler != "none" else next(used, NoBatchSystem())


def _foreign(name: str, directory: Path) -> Batch:
    """Make what runs the jobs of a scheduler that PSI/J knows. Raises ValueError."""
    executor = make_executor(name, directory / "psij")
    dialect = ForeignDialect(executor, kind_of(name, executor))
    return Batch(ForeignScheduler(name, executor), dialect, directory)


def _reason(name: str, system: BatchSystem) -> str | None:
    """Return why an executor cannot be used here, None if nothing speaks against it."""
    if name in DIALECTS:
        return "its scheduler did not answer when this endpoint started"
    if (package := _LIBRARIES.get(name)) is not None:
        return f"PSI/J drives it by the Python package {package}, and ORBIT drives commands only"
    kind = KINDS.get(name)
    if kind is None:
        return None
    if system.family == "pbs" and "qsub" in kind.commands:
        return "the commands here are those of PBS Pro: use pbs"
    absent = [command for command in kind.commands if shutil.which(command) is None]
    return f"{', '.join(absent)} not on PATH" if absent else None
