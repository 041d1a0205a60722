"""Follow a run's pilot, at which the run goes on once it has landed, and replace one that ended."""

import time
from functools import partial
from typing import Any

import anyio
import attrs
from orbit_psij.children.errors import UnknownChild

from orbit_core.errors import OrbitError

from .failures import PilotLost
from .pilot_ends import ANSWER, PilotEnd, end_of, obituary, objection, tasks_ended
from .records import PilotRecord
from .report import Span
from .run import Run
from .submission import CLEARING, PLUGINS, pilot_name, submit

LOOK = 2.0
"""Seconds between looks at the job of a pilot that is not connected."""

ENDING = 5.0
"""Seconds for which a pilot one of whose tasks was killed is expected to end itself."""


async def submit_pilot(run: Run) -> None:
    """Submit the run's pilot, unless a submission of before is found again.

    Raises what psij refuses, and ClusterLost.
    """
    cluster = run.record.allocate
    if cluster is None or run.record.pilot is not None:
        return
    await run.enter("pilot_submit", 10.0, f"submitting a pilot at {cluster}", cluster)
    await _submit(run, cluster)


async def _submit(run: Run, cluster: str) -> None:
    pilot = await submit(run, cluster)
    shown = _shown(run, "submitted", pilot)
    await run.change({"pilot_jobs": {cluster: pilot.job_id}, **shown}, pilot=pilot)
    await run.log("info", f"pilot {pilot.endpoint} is job {pilot.job_id} of {cluster}")


def has_landed(run: Run) -> bool:
    """Tell whether the run's pilot is connected and takes tasks."""
    pilot = run.record.pilot
    return pilot is not None and PLUGINS in run.fleet.plugins(pilot.endpoint)


def must_migrate(run: Run) -> bool:
    """Tell whether the run is to go on at its pilot, which has landed, and does not yet."""
    return not needs_pilot(run) and (run.record.is_migrating or has_landed(run))


def may_land(run: Run) -> bool:
    """Tell whether the run has a pilot that may still come."""
    pilot = run.record.pilot
    return pilot is not None and pilot.reason is None


def needs_pilot(run: Run) -> bool:
    """Tell whether the run has left its immediate cluster, so that only a pilot can go on."""
    return run.record.allocate is not None and run.active == run.record.allocate


async def note_pilot(run: Run) -> None:
    """Note whether the run's pilot has landed, or has ended; one that had landed is replaced.

    Raises ClusterLost, and what psij refuses, where another one cannot be submitted.
    """
    pilot = run.record.pilot
    if pilot is None:
        if run.record.lost_pilots:  # the run's endpoint ended before the next one was on record
            await _submit(run, run.record.lost_pilots[-1].cluster)
    elif has_landed(run) and pilot.landed is None and pilot.reason is None:
        await leave_queue(run)
        await _mark(run, "landed", landed=time.time(), before=tasks_ended(run.record))
        await run.log("info", f"pilot {pilot.endpoint} has landed")
    elif not has_landed(run) and pilot.reason is None and time.time() >= run.next_look:
        run.next_look = time.time() + LOOK
        end = await end_of(run, pilot)
        if end is not None:
            await _note_end(run, pilot, end)


async def _note_end(run: Run, pilot: PilotRecord, end: PilotEnd) -> None:
    await leave_queue(run)
    tries = run.workflow.pilot_tries
    if pilot.landed is None and not needs_pilot(run):
        await _mark(run, "lost", reason=end.reason)
        await run.log("error", f"pilot {pilot.endpoint} will not come: {end.reason}")
    elif (why := objection(run.record, pilot, end, tries)) is not None:
        reason = f"{obituary(pilot, end)}; {why}"
        await _mark(run, "lost", reason=reason)
        await run.log("error", reason)
    else:
        await _replace(run, obituary(pilot, end))


async def _replace(run: Run, why: str) -> None:
    """Submit another pilot for the run's, which has ended; the loss is on record before."""
    lost = run.record.pilot
    assert lost is not None
    await run.count_tasks(lost.cluster, 0)
    await run.change(
        pilot=None, lost_pilots=[*run.record.lost_pilots, attrs.evolve(lost, reason=why)]
    )
    number = len(run.record.lost_pilots) + 1
    which = f"pilot {number} of at most {run.workflow.pilot_tries}"
    await run.log("warning", f"{why}; {which} is submitted")
    await _submit(run, lost.cluster)


async def regain_pilot(run: Run) -> None:
    """Have the pilot without which the run cannot go on: wait for the one that replaces another.

    Raises PilotLost once there is none to come, and what `note_pilot` does.
    """
    if not needs_pilot(run):
        return
    run.next_look = 0.0
    await note_pilot(run)
    limit = run.workflow.timeouts.replacement
    give_up = time.monotonic() + limit
    while (pilot := run.record.pilot) is None or pilot.landed is None or pilot.reason is not None:
        if pilot is not None and pilot.reason is not None:
            raise PilotLost(pilot.reason)
        message = "waiting for another pilot"
        await run.enter("pilot_submit", run.state.progress, message, run.active)
        if pilot is not None and time.monotonic() > give_up:
            raise PilotLost(
                f"pilot {pilot.endpoint}, job {pilot.job_id} of {pilot.cluster}, which replaces "
                f"one that ended, has not landed within {limit:g} s: see timeouts.replacement"
            )
        await run.fleet.until(partial(has_landed, run), LOOK)
        await note_pilot(run)


async def expect_end(run: Run) -> None:
    """Wait a moment for the end of the run's pilot, a task of which was killed."""
    await run.fleet.until(lambda: not has_landed(run), ENDING)


async def dismiss_pilot(run: Run) -> None:
    """Give up a pilot that comes too late, so that it costs no node hours.

    What cannot be cancelled now is at the end of the run.
    """
    await leave_queue(run)
    await _mark(run, "dismissed", reason="it came too late")
    pilot = run.record.pilot
    assert pilot is not None
    try:
        with anyio.fail_after(ANSWER):
            jobs = await run.site.jobs(pilot.cluster)
            await jobs.stop_child(pilot.endpoint)
    except (OrbitError, TimeoutError) as error:
        why = error.detail if isinstance(error, OrbitError) else "no answer"
        await run.log(
            "warning", f"pilot {pilot.endpoint} is cancelled at the end of the run: {why}"
        )


async def _mark(run: Run, status: str, **changes: Any) -> None:
    assert run.record.pilot is not None
    pilot = attrs.evolve(run.record.pilot, **changes)
    await run.change(_shown(run, status, pilot), pilot=pilot)


def _shown(run: Run, status: str, pilot: PilotRecord) -> dict[str, Any]:
    """Return the state's clusters with how the pilot of the first that allocates is."""
    first, *others = run.state.allocate_clusters
    changed = attrs.evolve(first, pilot_status=status, pilot_job_id=pilot.job_id)
    return {"allocate_clusters": [changed, *others]}


async def leave_queue(run: Run) -> None:
    """Note how long the run's pilot queued, once: until it landed, ended or was given up."""
    pilot, now = run.record.pilot, time.time()
    if pilot is None or pilot.left_queue is not None:
        return
    queued = Span("pilot_submit", pilot.cluster, pilot.submitted, now, "queue", pilot.endpoint)
    left = attrs.evolve(pilot, left_queue=now)
    await run.change(pilot=left, spans=[*run.record.spans, queued])


async def release_pilot(run: Run, cluster: str) -> None:
    """End the run's pilot, submitted or about to be, with its job, and wait until it is gone."""
    jobs = await run.site.jobs(cluster)
    stop = partial(jobs.stop_child, pilot_name(run))
    while True:
        try:
            status = await run.site.ask(cluster, stop)
        except UnknownChild:
            break
        if status["stage"] == "over":
            break
        await anyio.sleep(CLEARING)
    await run.site.release(cluster, "psij", run.site.run_sid)
