"""Get a pilot: a child endpoint in a batch job, at which the run goes on once it has landed."""

import time
from functools import partial
from typing import Any

import anyio
import attrs
from orbit_psij.children.errors import UnknownChild

from orbit_core.errors import NameInUse, OrbitError

from .failures import ClusterLost
from .reach import AWAY
from .records import PilotRecord
from .report import Span
from .run import Run

PLUGINS = "rhapsody"
"""What a pilot serves: its files are those of its cluster."""

LOOK = 2.0
"""Seconds between looks at the job of a pilot that has not landed."""

ANSWER = 5.0
"""Seconds within which a cluster says how a pilot is, or is asked another time."""

CLEARING = 0.5
"""Seconds between looks at a child that is being cleared away."""


def pilot_name(run_id: str) -> str:
    """Return what a run's pilot is called below its cluster."""
    return f"xgf-{run_id.rpartition('-')[2]}"


async def submit_pilot(run: Run) -> None:
    """Submit the run's pilot, unless a submission of before is found again.

    Raises what psij refuses, and ClusterLost.
    """
    cluster = run.record.allocate
    if cluster is None or run.record.pilot is not None:
        return
    await run.enter("pilot_submit", 10.0, f"submitting a pilot at {cluster}", cluster)
    jobs = await run.site.jobs(cluster)
    found = await run.site.ask(cluster, partial(_submit_or_find, run, jobs, cluster))
    pilot = PilotRecord(
        cluster=cluster,
        endpoint=found["endpoint_name"],
        job_id=found["job_id"],
        submitted=time.time(),
    )
    shown = _shown(run, "submitted", pilot.job_id)
    await run.change({"pilot_jobs": {cluster: pilot.job_id}, **shown}, pilot=pilot)
    await run.log("info", f"pilot {pilot.endpoint} is job {pilot.job_id} of {cluster}")


async def _submit_or_find(run: Run, jobs: Any, cluster: str) -> dict[str, Any]:
    """Return the pilot that was submitted before, or submit it; safe to repeat.

    Raises what psij refuses, also a name that stays in use.
    """
    give_up = time.monotonic() + run.site.patience
    while True:
        found = await _find(run, jobs, cluster)
        if found is not None and found["job_id"] is not None:
            return found
        try:
            made: dict[str, Any] = await jobs.submit_tunneled(
                _job_spec(run, cluster),
                await _executor(run, jobs, cluster),
                run.cluster(cluster).tunnel,
                idempotency_key=f"{run.run_id}.pilot",
            )
            return made
        except NameInUse:  # a submission of before is still under way, or is cleared away
            if time.monotonic() > give_up:
                raise
            await anyio.sleep(CLEARING)


async def _find(run: Run, jobs: Any, cluster: str) -> dict[str, Any] | None:
    name = pilot_name(run.run_id)
    for child in await jobs.list_children():
        if child["endpoint_name"] in (name, f"{cluster}.{name}") and child["stage"] != "over":
            return dict(child)
    return None


def _job_spec(run: Run, cluster: str) -> dict[str, Any]:
    config = run.cluster(cluster)
    return {
        "arguments": ["--name", pilot_name(run.run_id), "--plugins", PLUGINS],
        "attributes": {
            "duration": int(config.duration),
            "queue_name": config.queue,
            "account": config.account,
        },
        "resources": {"node_count": config.nodes},
        "custom_attributes": dict(config.custom_attributes),
    }


async def _executor(run: Run, jobs: Any, cluster: str) -> str:
    """Return the configured executor, else the scheduler's if there is one."""
    return run.cluster(cluster).executor or str((await jobs.executors())[-1])


def has_landed(run: Run) -> bool:
    """Tell whether the run's pilot is connected and takes tasks."""
    pilot = run.record.pilot
    return pilot is not None and PLUGINS in run.fleet.plugins(pilot.endpoint)


def must_migrate(run: Run) -> bool:
    """Tell whether the run is to go on at its pilot, which has landed, and does not yet."""
    has_left = run.active == run.record.allocate
    return not has_left and (run.record.is_migrating or has_landed(run))


def may_land(run: Run) -> bool:
    """Tell whether the run has a pilot that may still come."""
    pilot = run.record.pilot
    return pilot is not None and pilot.reason is None


async def note_pilot(run: Run) -> None:
    """Note whether the run's pilot has landed, or will not, and how long it queued."""
    pilot = run.record.pilot
    if pilot is None or pilot.landed is not None or pilot.reason is not None:
        return
    now = time.time()
    if has_landed(run):
        queued = Span("pilot_submit", pilot.cluster, pilot.submitted, now, "queue", pilot.endpoint)
        spans = [*run.record.spans, queued]
        landed = attrs.evolve(pilot, landed=now)
        await run.change(_shown(run, "landed", pilot.job_id), pilot=landed, spans=spans)
        await run.log("info", f"pilot {pilot.endpoint} has landed")
    elif now >= run.next_look:
        run.next_look = now + LOOK
        reason = await _end_of(run, pilot)
        if reason is not None:
            shown = _shown(run, "lost", pilot.job_id)
            await run.change(shown, pilot=attrs.evolve(pilot, reason=reason))
            await run.log("error", f"pilot {pilot.endpoint} will not come: {reason}")


def _shown(run: Run, status: str, job_id: str) -> dict[str, Any]:
    """Return the state's clusters with how the pilot of the first that allocates is."""
    first, *others = run.state.allocate_clusters
    changed = attrs.evolve(first, pilot_status=status, pilot_job_id=job_id)
    return {"allocate_clusters": [changed, *others]}


async def _end_of(run: Run, pilot: PilotRecord) -> str | None:
    """Return why a pilot is over, None if it is not or nobody answers."""
    try:
        with anyio.fail_after(ANSWER):
            jobs = await run.site.jobs(pilot.cluster)
            status = await jobs.tunnel_status(pilot.endpoint)
    except (*AWAY, ClusterLost, TimeoutError):
        return None
    if status["stage"] != "over":
        return None
    return str(status["reason"] or f"its job is {status['job_state']}")


async def explained(run: Run, error: OrbitError) -> str:
    """Return why a run failed: that its pilot ended, if it worked there and that did."""
    pilot = run.record.pilot
    if pilot is None or run.active != pilot.cluster:
        return error.detail
    reason = await _end_of(run, pilot)
    if reason is None:
        return error.detail
    return (
        f"pilot {pilot.endpoint} ended while the run needed it ({reason}): see its job "
        f"{pilot.job_id} at {pilot.cluster}, or ask for a longer duration; {error.detail}"
    )


async def release_pilot(run: Run, cluster: str) -> None:
    """End the run's pilot, submitted or about to be, with its job, and wait until it is gone."""
    jobs = await run.site.jobs(cluster)
    stop = partial(jobs.stop_child, pilot_name(run.run_id))
    while True:
        try:
            status = await run.site.ask(cluster, stop)
        except UnknownChild:
            break
        if status["stage"] == "over":
            break
        await anyio.sleep(CLEARING)
    await run.site.release(cluster, "psij", run.site.run_sid)
