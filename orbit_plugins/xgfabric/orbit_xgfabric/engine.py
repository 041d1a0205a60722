"""Carry a run through its steps, from wherever it was left, and release what it used."""

import logging
from collections.abc import Awaitable, Callable

import anyio

from orbit_core.errors import OrbitError

from .acquisition import acquire, stage
from .connecting import connect
from .failures import PilotLost
from .migration import settle
from .pilots import regain_pilot, release_pilot, submit_pilot
from .programs import release_tasks
from .records import Verdict
from .run import Run
from .simulations import simulate
from .steps import evaluate, train

logger = logging.getLogger(__name__)

Step = Callable[[Run], Awaitable[None]]


async def carry_out(run: Run) -> Verdict:
    """Carry a run through the steps that it has not finished, and return how it is to end.

    Raises RunFailed, and what the clusters refuse.
    """
    for name, step in STEPS.items():
        while name not in run.record.finished:
            await regain_pilot(run)
            try:
                await step(run)
            except PilotLost as error:
                logger.info("run %s has to repeat %s: %s", run.run_id, name, error.detail)
            else:
                await run.finish(name)
    where = f"{run.workspace.run} at {run.active}"
    return Verdict("completed", f"completed: the results are in {where}")


async def release(run: Run) -> None:
    """End what a run has left running; what cannot be ended is told in its log."""
    async with anyio.create_task_group() as group:
        group.start_soon(_guarded, run, run.record.immediate, release_tasks)
        group.start_soon(_guarded, run, run.record.allocate, release_pilot)
    await run.change(is_clear=True)


async def release_files(run: Run) -> None:
    """Delete the files that a run has at clusters in its own session."""
    async with anyio.create_task_group() as group:
        for cluster in run.record.workspaces:
            group.start_soon(_guarded, run, cluster, _release_files)


async def _release_files(run: Run, cluster: str) -> None:
    await run.site.release(cluster, "staging", run.site.files_sid)


async def _guarded(
    run: Run, cluster: str | None, act: Callable[[Run, str], Awaitable[None]]
) -> None:
    if cluster is None:
        return
    try:
        await act(run, cluster)
    except OrbitError as error:
        await run.log("error", f"{cluster} may go on with what this run began: {error.detail}")


STEPS: dict[str, Step] = {
    "connect": connect,
    "acquire": acquire,
    "pilot": submit_pilot,
    "stage": stage,
    "simulate": simulate,
    "settle": settle,
    "train": train,
    "evaluate": evaluate,
}
"""What a run does, in order; each is repeated as a whole unless it finished."""
