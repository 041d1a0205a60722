"""Carry a run through its steps, from wherever it was left."""

import logging
from collections.abc import Awaitable, Callable
from functools import partial

import anyio

from orbit_core.errors import OrbitError

from .acquisition import acquire, stage
from .clusters import clusters, refusal
from .failures import PilotLost
from .migration import settle
from .pilots import regain_pilot, release_pilot, submit_pilot
from .programs import release_tasks
from .records import Verdict
from .run import Run
from .simulations import simulate
from .states import ClusterStatus
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


async def connect(run: Run) -> None:
    """Choose the first immediate cluster and, if there is one, the first that allocates.

    Raises NoImmediateCluster, and what staging refuses at either.
    """
    await run.enter("connecting", 0.0, "looking for the clusters")
    limit = run.workflow.timeouts.connect
    if not await run.fleet.until(partial(_has_immediate, run), limit):
        raise refusal(run.fleet, run.resource, limit)
    found = list(clusters(run.fleet, run.resource))
    immediate = _of_kind(found, "immediate")
    allocate = _of_kind(found, "allocate")
    await run.change(
        {
            "immediate_clusters": immediate,
            "allocate_clusters": allocate,
            "active_cluster": immediate[0].name,
        },
        immediate=immediate[0].name,
        allocate=allocate[0].name if allocate else None,
    )
    await verify(run)


async def verify(run: Run) -> None:
    """Make the run's directories at its clusters, which shows that they can be used."""
    chosen = [name for name in (run.immediate, run.record.allocate) if name is not None]
    await run.enter("verifying", 1.0, f"using {' and '.join(chosen)}")
    for name in chosen:
        path = run.cluster(name).workflow_path
        space = await run.site.prepare(name, path, run.run_id)
        await run.change(workspaces={**run.record.workspaces, name: space})


def _has_immediate(run: Run) -> bool:
    return bool(_of_kind(list(clusters(run.fleet, run.resource)), "immediate"))


def _of_kind(found: list[ClusterStatus], kind: str) -> list[ClusterStatus]:
    return [cluster for cluster in found if cluster.cluster_type == kind]


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
