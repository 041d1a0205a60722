"""Name what a batch system has: queues, jobs, allocations.

Durations are seconds and None where there is no limit; times are seconds since the epoch and 0
where unknown; memory is MiB. None stands for what this scheduler does not tell.
"""

import attrs

from orbit_core.batch import Failure, JobReport


@attrs.frozen
class Queue:
    """Describe a queue (a partition); nodes are available if they may run jobs at all.

    On PBS the figures of nodes are those of the whole system: its queues share them.
    """

    name: str
    state: str
    time_limit: int | None = None
    default: bool | None = None
    nodes_total: int = 0
    nodes_available: int = 0
    nodes_idle: int = 0
    cpus_per_node: int | None = None
    mem_per_node_mb: int | None = None
    gpus_per_node: int = 0
    max_jobs_per_user: int | None = None
    features: list[str] = attrs.field(factory=list)
    walltime_min: int | None = None
    walltime_max: int | None = None
    nodes_min: int | None = None
    nodes_max: int | None = None


@attrs.frozen
class Job:
    """Describe a job; ``state`` is the scheduler's own word, spelt out on PBS.

    ``time_used`` counts while the job runs. ``owner`` and ``mem_used`` are PBS's; what begins with
    ``array_`` or ``tres_``, and ``restart_cnt``, is SLURM's.
    """

    job_id: str
    job_name: str = ""
    user: str = ""
    partition: str = ""
    state: str = ""
    nodes: int = 0
    cpus: int = 0
    time_limit: int | None = None
    time_used: int = 0
    submit_time: int = 0
    start_time: int = 0
    priority: int = 0
    account: str = ""
    node_list: str = ""
    reason: str = ""
    qos: str = ""
    dependency: str = ""
    std_out: str = ""
    std_err: str = ""
    work_dir: str = ""
    command: str = ""
    exit_code: int | None = None
    array_job_id: str | None = None
    array_task_id: int | None = None
    tres_req: str | None = None
    tres_alloc: str | None = None
    restart_cnt: int | None = None
    owner: str | None = None
    mem_used: str | None = None


@attrs.frozen
class JobEnd:
    """Say how a job is or was, and why it did not end well; ``why`` is that in words.

    ``state`` is of those that all schedulers share, ``native_state`` this scheduler's own, and
    ``nodes`` are where it runs or ran. ``age`` is that of the answer in seconds.
    """

    job_id: str
    state: str
    native_state: str
    exit_code: int | None
    failure: Failure | None
    why: str | None
    nodes: str
    age: float


def job_end(report: JobReport, age: float) -> JobEnd:
    """Return what is told of a job."""
    return JobEnd(
        job_id=report.job_id,
        state=report.state,
        native_state=report.native_state,
        exit_code=report.exit_code,
        failure=report.failure,
        why=None if report.failure is None else str(report.failure),
        nodes=report.nodes,
        age=age,
    )


@attrs.frozen
class Allocation:
    """Describe what a user may use of an account; ``qos`` is a list with commas.

    Node hours are None where the scheduler does not count them, as SLURM; the last six fields are
    of PBS sites with sbank.
    """

    account: str
    user: str = ""
    fairshare: int | None = None
    qos: str = ""
    max_jobs: int | None = None
    max_submit: int | None = None
    max_wall: int | None = None
    grp_tres: str = ""
    partition: str = ""
    allocated_node_hours: float | None = None
    used_node_hours: float | None = None
    remaining_node_hours: float | None = None
    allocation_id: str | None = None
    suballocation_id: str | None = None
    start_date: str | None = None
    end_date: str | None = None
    resource: str | None = None
    jobs: int | None = None


@attrs.frozen
class QueueInfoSettings:
    """Configure the plugin: ``[plugin.queue_info]``.

    ``backend_conf``, or by its old name ``slurm_conf``, names another slurm.conf than the host's;
    ``cache_ttl`` is how many seconds an answer is good for, at least 10.
    """

    backend_conf: str | None = None
    slurm_conf: str | None = None
    cache_ttl: float = 10.0
