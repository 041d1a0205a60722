"""Tell how a pilot's job ended, and whether another one is worth submitting."""

from typing import Any

import anyio
import attrs
from orbit_psij.errors import UnknownJob

from orbit_core.errors import OrbitError, SessionExpired, UnknownSession

from .failures import PilotLost
from .reach import Watch
from .records import PilotRecord, RunRecord
from .run import Run

ANSWER = 5.0
"""Seconds within which a cluster says how a pilot is, or is asked another time."""

NO_OUTPUT = 2**59
"""An offset at which no job's output is: its status comes without."""


@attrs.frozen
class PilotEnd:
    """Say how a pilot ended: ``cause`` is that of psij's failure, ``job`` the scheduler's id."""

    reason: str
    cause: str | None = None
    job: str = ""


async def end_of(run: Run, pilot: PilotRecord) -> PilotEnd | None:
    """Return how a pilot ended, None if it has not or nobody answers."""
    try:
        with anyio.fail_after(ANSWER):
            jobs = await run.site.jobs(pilot.cluster)
            status = await jobs.tunnel_status(pilot.endpoint)
            if status["stage"] != "over":
                return None
            job = await _job_of(jobs, pilot)
    except (OrbitError, TimeoutError):
        return None
    if job is None:
        return PilotEnd(f"{pilot.cluster} does not know its job any more", job=pilot.job_id)
    failure = job["failure"] or {}
    reason = status["reason"] or job["message"] or f"its job is {job['state']}"
    return PilotEnd(str(reason), failure.get("cause"), str(job["native_id"] or pilot.job_id))


async def _job_of(jobs: Any, pilot: PilotRecord) -> dict[str, Any] | None:
    """Return the status of a pilot's job without its output, None if it is forgotten."""
    try:
        return dict(await jobs.get_job_status(pilot.job_id, NO_OUTPUT, NO_OUTPUT))
    except (UnknownJob, UnknownSession, SessionExpired):
        return None


def watch_pilot(run: Run) -> Watch:
    """Return what raises PilotLost once the pilot at which the run works has ended."""
    pilot = run.record.pilot
    assert pilot is not None

    async def check() -> None:
        end = await end_of(run, pilot)
        if end is not None:
            raise PilotLost(obituary(pilot, end))

    return Watch(f"pilot {pilot.endpoint}, job {pilot.job_id} of {pilot.cluster},", check)


def obituary(pilot: PilotRecord, end: PilotEnd) -> str:
    """Return a sentence that names a pilot, its job, and why it ended."""
    return f"pilot {pilot.endpoint}, job {end.job} of {pilot.cluster}, has ended: {end.reason}"


def objection(record: RunRecord, pilot: PilotRecord, end: PilotEnd, tries: int) -> str | None:
    """Return why a run's pilot that ended is not replaced, None if it is.

    A run has ``tries`` pilots at most. Whoever cancelled a job wants it gone, and a walltime that
    was too short for one task is so again.
    """
    if end.cause == "cancelled":
        return "a pilot whose job was cancelled is not replaced"
    if end.cause == "walltime" and pilot.landed is not None and tasks_ended(record) == pilot.before:
        return "no task ended within its walltime, so ask for a longer duration"
    if len(record.lost_pilots) + 1 >= tries:
        return f"no other one is submitted, since pilot_tries is {tries}"
    return None


def tasks_ended(record: RunRecord) -> int:
    """Return how many tasks of a run have ended, wherever they ran."""
    return sum(span.kind == "task" for span in record.spans)
