"""Name the states of batch jobs, and why they fail, in words that all schedulers share."""

import signal
from enum import StrEnum

import attrs


class JobState(StrEnum):
    """Say how a job is; UNKNOWN is a job of which neither queue nor accounting has heard."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    HELD = "HELD"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"

    @property
    def is_final(self) -> bool:
        """Tell whether a job stays so."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


class FailureCause(StrEnum):
    """Say why a job did not end well."""

    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    WALLTIME = "walltime"
    DEADLINE = "deadline"
    OUT_OF_MEMORY = "out_of_memory"
    NODE_FAILURE = "node_failure"
    PREEMPTION = "preemption"
    CANCELLED = "cancelled"
    OTHER = "other"


@attrs.frozen
class Failure:
    """Tell why a job did not end well; ``detail`` is the scheduler's own word, if it has one.

    ``exit_code`` and ``signal`` are set where the cause is that; ``cancelled_by`` is a user's name
    where the scheduler tells who it was.
    """

    cause: FailureCause
    exit_code: int | None = None
    signal: int | None = None
    cancelled_by: str | None = None
    detail: str = ""

    def __str__(self) -> str:
        """Return one line for people."""
        match self.cause:
            case FailureCause.EXIT_CODE:
                return f"exit code {self.exit_code}"
            case FailureCause.SIGNAL:
                return f"killed by {_signal_name(self.signal)}"
            case FailureCause.CANCELLED:
                return f"cancelled by {self.cancelled_by}" if self.cancelled_by else "cancelled"
            case FailureCause.OTHER:
                return f"failed: {self.detail}" if self.detail else "failed"
            case cause:
                return _WORDS[cause]


_WORDS = {
    FailureCause.WALLTIME: "ran longer than its walltime",
    FailureCause.DEADLINE: "not over by its deadline",
    FailureCause.OUT_OF_MEMORY: "out of memory",
    FailureCause.NODE_FAILURE: "a node failed",
    FailureCause.PREEMPTION: "preempted by another job",
}


def _signal_name(number: int | None) -> str:
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"


@attrs.frozen
class JobReport:
    """Say how a job is; ``native_state`` is the scheduler's word, ``nodes`` where it runs or ran.

    ``exit_code`` is None until the job is over, and where it has none.
    """

    job_id: str
    state: JobState
    native_state: str = ""
    exit_code: int | None = None
    failure: Failure | None = None
    nodes: str = ""


@attrs.frozen
class JobAllocation:
    """Describe the batch job that this process runs in; ``runtime`` is its walltime in seconds.

    ``nodelist`` is compressed on SLURM and separated by commas on PBS. None stands for what is
    unknown, and for a ``runtime`` without limit.
    """

    job_id: str
    partition: str | None
    n_nodes: int
    nodelist: str | None
    cpus_per_node: int | None
    gpus_per_node: int | None
    account: str | None
    job_name: str | None
    runtime: int | None


_ORDER = (
    JobState.RUNNING, JobState.PENDING, JobState.HELD, JobState.UNKNOWN,
    JobState.FAILED, JobState.CANCELLED, JobState.DONE,
)  # fmt: skip


def combine(job_id: str, elements: list[JobReport]) -> JobReport:
    """Return one report for a job array: it runs while an element does, and fails if one did."""
    leading = min(elements, key=lambda element: _ORDER.index(element.state))
    return attrs.evolve(leading, job_id=job_id)
