"""Name what can go wrong with jobs.

Importing this module is what lets a client raise these classes again from a reply's ``code``.
"""

from orbit_core.errors import InternalError, NotFound


class UnknownJob(NotFound):
    """Answer for a job id that this session never submitted."""

    code = "unknown_job"


class SubmitFailed(InternalError):
    """Report that PSI/J refused or could not start a job, with its reason; the job did not run."""

    code = "submit_failed"
