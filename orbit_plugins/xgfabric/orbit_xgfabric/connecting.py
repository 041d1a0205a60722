"""Choose the clusters of a run, and see that they can be used, before anything starts."""

from functools import partial

from .clusters import absent, clusters, refusal, skipped
from .run import Run
from .states import ClusterStatus
from .templates import uses


async def connect(run: Run) -> None:
    """Choose the first immediate cluster and, if there is one, the first that allocates.

    Those that are configured are waited for; whoever does not come is skipped, which is told.
    Raises NoImmediateCluster, and what staging refuses at either.
    """
    awaited = ", ".join(absent(run.fleet, run.resource))
    message = f"waiting for {awaited}" if awaited else "looking for the clusters"
    await run.enter("connecting", 0.0, message)
    limit = run.workflow.timeouts.connect
    await run.fleet.until(partial(_are_all_there, run), limit)
    await _tell_skipped(run)
    found = _usable(run)
    immediate, allocate = _of_kind(found, "immediate"), _of_kind(found, "allocate")
    if not immediate:
        raise refusal(run.fleet, run.resource, limit)
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


def _are_all_there(run: Run) -> bool:
    is_anyone_away = any(absent(run.fleet, run.resource))
    return not is_anyone_away and bool(_of_kind(_usable(run), "immediate"))


async def _tell_skipped(run: Run) -> None:
    found = skipped(run.fleet, run.resource)
    await run.change({"skipped_clusters": found})
    for name, reason in found.items():
        await run.log("warning", f"cluster {name} of the resources is skipped: it {reason}")


def _usable(run: Run) -> list[ClusterStatus]:
    """Return the clusters that the run may use, in the order of preference.

    No job is submitted at, and no program of the workflow's is sought at, an endpoint that only
    stands in for a cluster that is configured and missing.
    """
    found = list(clusters(run.fleet, run.resource))
    if not skipped(run.fleet, run.resource):
        return found
    needs_programs = uses(run.workflow, "workflow_path")
    named = [one for one in found if one.name in run.resource.cluster_configs]
    others = [one for one in found if one not in named and not needs_programs]
    return [*named, *_of_kind(others, "immediate")]


def _of_kind(found: list[ClusterStatus], kind: str) -> list[ClusterStatus]:
    return [cluster for cluster in found if cluster.cluster_type == kind]
