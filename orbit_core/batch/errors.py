"""Say what went wrong with a batch system."""

from orbit_core.errors import BadRequest, Forbidden, InternalError, NotFound, Unavailable


class SchedulerUnavailable(Unavailable):
    """Report that the scheduler does not answer; the text says which command was tried."""

    code = "scheduler_unavailable"


class SchedulerFailed(InternalError):
    """Report that the scheduler refused or failed, with its own words."""

    code = "scheduler_failed"


class OutputTooLarge(InternalError):
    """Report that a command of the scheduler printed more than is read."""

    code = "scheduler_output_too_large"


class AllocationUnknown(InternalError):
    """Report that this process runs in a batch job whose extent cannot be told."""

    code = "allocation_unknown"


class InvalidJobId(BadRequest):
    """Refuse what is not a job id of this scheduler: it never reaches a command line."""

    code = "invalid_job_id"


class JobForbidden(Forbidden):
    """Report that the scheduler does not let this user touch the job."""

    code = "job_forbidden"


class UnknownBatchJob(NotFound):
    """Answer for a job that neither the scheduler nor its accounting knows."""

    code = "unknown_batch_job"
