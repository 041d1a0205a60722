"""Name what can go wrong with jobs.

Importing this module is what lets a client raise these classes again from a reply's ``code``.
"""

from orbit_core.batch import SchedulerUnavailable
from orbit_core.errors import BadRequest, Gone, InternalError, NotFound

FOREIGN = (SchedulerUnavailable,)
"""Errors of the core's batch systems that a client meets here too."""


class UnknownJob(NotFound):
    """Answer for a job id that this session never submitted."""

    code = "unknown_job"


class JobExpired(Gone):
    """Answer for a job that ended so long ago that it is not kept any more."""

    code = "job_expired"


class SubmitFailed(InternalError):
    """Report that PSI/J refused or could not start a job, with its reason; the job did not run."""

    code = "submit_failed"


class JobRefused(BadRequest):
    """Report that the scheduler does not take a job, in its own words, as for an unknown queue."""

    code = "job_refused"
