"""Name the values of jobs: what is asked for, what is kept, and what is answered."""

from enum import StrEnum
from typing import Any

import attrs

from orbit_core.batch import Failure

Scalar = str | int | float | bool

LAUNCHERS = ("single", "multiple", "mpirun", "srun", "aprun", "jsrun")
"""How PSI/J may start a job's processes; ``single`` unless the job says otherwise."""


class JobState(StrEnum):
    """Say where a job is; a state is never followed by an earlier one.

    The states and their order are PSI/J's
    (https://exaworks.org/job-api-spec/specification#state-model).
    """

    NEW = "NEW"
    QUEUED = "QUEUED"
    ACTIVE = "ACTIVE"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def is_final(self) -> bool:
        """Tell whether a job in this state is over."""
        return self in _FINAL

    def may_follow(self, earlier: "JobState") -> bool:
        """Tell whether a job may go from ``earlier`` to this state."""
        return not earlier.is_final and _ORDER.index(self) > _ORDER.index(earlier)


_FINAL = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELED})
_ORDER = tuple(JobState)


@attrs.frozen
class JobResources:
    """Say what a job needs; what is None is left to the scheduler.

    ``process_count`` is ``node_count`` times ``processes_per_node``; ``memory`` is that of the
    whole job, in bytes.
    """

    node_count: int | None = None
    process_count: int | None = None
    processes_per_node: int | None = None
    cpu_cores_per_process: int | None = None
    gpu_cores_per_process: int | None = None
    gpus_per_node: int | None = None
    exclusive_node_use: bool = False
    memory: int | None = None


@attrs.frozen
class JobAttributes:
    """Say how a scheduler treats a job; ``duration`` is its walltime in seconds."""

    duration: int | None = None
    queue_name: str | None = None
    account: str | None = None
    reservation_id: str | None = None


@attrs.frozen
class JobSpec:
    """Describe a job: a superset of PSI/J's ``JobSpec``.

    ``stdin`` is text for the job's standard input, ``stdin_path`` a file for it; at most one is
    given. ``stdout_path`` and ``stderr_path`` are where the job's output is written, besides being
    served by the plugin, which keeps it itself if they are None. ``custom_attributes`` reach the
    scheduler, such as ``{"slurm.constraint": "gpu"}``.

    ``count`` makes the job an array of that many elements; ``{array_index}`` in the paths of the
    three streams, and the variable ``ORBIT_ARRAY_INDEX``, are an element's number from 0. The job
    waits until those named in ``after_ok`` have completed, and those in ``after_any`` are over.
    """

    executable: str
    arguments: list[str] = attrs.field(factory=list)
    directory: str | None = None
    name: str | None = None
    environment: dict[str, str] = attrs.field(factory=dict)
    inherit_environment: bool = True
    stdin: str | None = None
    stdin_path: str | None = None
    stdout_path: str | None = None
    stderr_path: str | None = None
    pre_launch: str | None = None
    post_launch: str | None = None
    launcher: str | None = None
    resources: JobResources = attrs.field(factory=JobResources)
    attributes: JobAttributes = attrs.field(factory=JobAttributes)
    custom_attributes: dict[str, Scalar] = attrs.field(factory=dict)
    count: int | None = None
    after_ok: list[str] = attrs.field(factory=list)
    after_any: list[str] = attrs.field(factory=list)


@attrs.frozen
class Element:
    """Say how one element of a job array is."""

    index: int
    state: JobState = JobState.QUEUED
    exit_code: int | None = None
    message: str | None = None
    failure: Failure | None = None


@attrs.frozen
class Submission:
    """Ask for a job on one of PSI/J's executors."""

    job_spec: JobSpec
    executor: str = "local"


@attrs.frozen
class JobRecord:
    """Keep what a job needs to survive its endpoint; times are seconds since the epoch.

    ``owner`` is its session's (None: everybody), ``request_key`` names the request that made it,
    ``changed`` is when it entered its state, and ``discard`` says that its session has ended, so
    that it goes as soon as it is over. ``error`` is why we ended it ourselves.
    """

    job_id: str
    sid: str
    executor: str
    spec: JobSpec
    created: float
    changed: float
    owner: str | None = None
    request_key: str | None = None
    native_id: str | None = None
    state: JobState = JobState.NEW
    message: str | None = None
    exit_code: int | None = None
    failure: Failure | None = None
    elements: list[Element] = attrs.field(factory=list)
    cancel_requested: bool = False
    discard: bool = False
    error: str | None = None


@attrs.frozen
class Submitted:
    """Confirm a job; ``native_id`` is what its scheduler calls it (locally: its process id)."""

    job_id: str
    native_id: str | None


@attrs.frozen
class Cancelled:
    """Confirm a cancellation.

    ``status`` is ``canceled``, or ``canceling`` if the job resists, or how it had ended before.
    """

    job_id: str
    status: str


@attrs.frozen
class JobSummary:
    """Describe one job in a list."""

    job_id: str
    native_id: str | None
    state: JobState
    exit_code: int | None
    name: str | None
    executable: str
    arguments: list[str]
    executor: str
    queue_name: str | None
    account: str | None
    node_count: int | None
    time: float


@attrs.frozen
class JobStatus:
    """Describe one job with the part of its output that was asked for.

    ``stdout`` and ``stderr`` begin at the offsets of the request and end at ``stdout_offset`` and
    ``stderr_offset``, in bytes: ask from there the next time. ``time`` is when the job entered its
    state, in seconds since the epoch; ``duration`` is its walltime in seconds. ``failure`` tells
    why it did not end well, which ``message`` says in words. ``elements`` are a job array's.
    ``error`` tells why the endpoint ended the job itself: its child endpoint reached no bridge.
    """

    job_id: str
    native_id: str | None
    state: JobState
    message: str | None
    exit_code: int | None
    time: float
    name: str | None
    executable: str
    arguments: list[str]
    executor: str
    directory: str | None
    queue_name: str | None
    account: str | None
    node_count: int | None
    duration: int | None
    stdout: str
    stderr: str
    stdout_offset: int
    stderr_offset: int
    failure: Failure | None
    elements: list[Element]
    error: str | None = None


def summary_of(record: JobRecord) -> JobSummary:
    """Return what a list says of a job."""
    spec = record.spec
    return JobSummary(
        job_id=record.job_id,
        native_id=record.native_id,
        state=record.state,
        exit_code=record.exit_code,
        name=spec.name,
        executable=spec.executable,
        arguments=spec.arguments,
        executor=record.executor,
        queue_name=spec.attributes.queue_name,
        account=spec.attributes.account,
        node_count=spec.resources.node_count,
        time=record.changed,
    )


def status_of(record: JobRecord, stdout: tuple[str, int], stderr: tuple[str, int]) -> JobStatus:
    """Return a job's status with output, each as text and the offset at which it ends."""
    summary: dict[str, Any] = attrs.asdict(summary_of(record), recurse=False)
    return JobStatus(
        **summary,
        message=record.message,
        directory=record.spec.directory,
        duration=record.spec.attributes.duration,
        stdout=stdout[0],
        stderr=stderr[0],
        stdout_offset=stdout[1],
        stderr_offset=stderr[1],
        failure=record.failure,
        elements=record.elements,
        error=record.error,
    )
