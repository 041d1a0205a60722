"""Speak with SLURM: squeue(1), sacct(1), scontrol(1), scancel(1)."""

import os
import pwd
import re

import anyio.to_thread
import attrs

from .commands import DEADLINE, Output, run
from .durations import seconds_of
from .errors import AllocationUnknown, JobForbidden, SchedulerFailed, SchedulerUnavailable
from .models import Failure, FailureCause, JobAllocation, JobReport, JobState, combine
from .system import BatchSystem

STATES = {
    **dict.fromkeys(
        ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "POWER_UP_NODE"), JobState.PENDING
    ),
    **dict.fromkeys(
        ("RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "EXPEDITING", "UPDATE_DB"),
        JobState.RUNNING,
    ),
    **dict.fromkeys(
        ("SUSPENDED", "STOPPED", "REVOKED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"),
        JobState.HELD,
    ),
    "COMPLETED": JobState.DONE,
    **dict.fromkeys(
        ("FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "OUT_OF_MEMORY",
         "LAUNCH_FAILED", "RECONFIG_FAIL"),
        JobState.FAILED,
    ),
    **dict.fromkeys(("CANCELLED", "DEADLINE"), JobState.CANCELLED),
}  # fmt: skip
"""Every state of squeue(1), JOB STATE CODES; beside it, a PENDING job that is held is HELD."""

_CAUSES = {
    "TIMEOUT": FailureCause.WALLTIME,
    "DEADLINE": FailureCause.DEADLINE,
    "OUT_OF_MEMORY": FailureCause.OUT_OF_MEMORY,
    "NODE_FAIL": FailureCause.NODE_FAILURE,
    "BOOT_FAIL": FailureCause.NODE_FAILURE,
    "PREEMPTED": FailureCause.PREEMPTION,
    "CANCELLED": FailureCause.CANCELLED,
}
_HELD = ("JobHeldUser", "JobHeldAdmin", "JobHoldMaxRequeue")
_NO_SUCH_JOB = "Invalid job id specified"
_CANNOT_CONTACT = ("Unable to contact slurm controller", "Connection refused", "Zero Bytes were")
_DENIED = ("Access/permission denied", "Invalid user id")
_GPUS = re.compile(r"(?:[A-Za-z]\w*:)*(\d{1,6})(?:\(.*\))?", re.ASCII)


@attrs.frozen
class _Row:
    """Hold what SLURM says of a job; ``ended`` is sacct's and scontrol's ``CODE:SIGNAL``."""

    job_id: str
    state: str
    reason: str = ""
    nodes: str = ""
    ended: str = "0:0"
    cancelled_by: str | None = None

    @property
    def is_over(self) -> bool:
        """Tell whether the job stays so."""
        return STATES.get(self.state, JobState.UNKNOWN).is_final

    @property
    def is_explained(self) -> bool:
        """Tell whether it is clear how the job ended."""
        failed = STATES.get(self.state) is JobState.FAILED
        return not failed or self.state in _CAUSES or self.ended != "0:0"

    def report(self) -> JobReport:
        """Return the row in the words that all schedulers share."""
        state = STATES.get(self.state, JobState.UNKNOWN)
        if state is JobState.PENDING and self.reason in _HELD:
            state = JobState.HELD
        code, number = _code_and_signal(self.ended)
        failure = self._failure(code, number)
        has_code = state.is_final and not number and (code or failure is None)
        exit_code = code if has_code else None
        return JobReport(self.job_id, state, self.state, exit_code, failure, self.nodes)

    def _failure(self, code: int, number: int) -> Failure | None:
        detail = "" if self.reason in ("None", "NonZeroExitCode") else self.reason
        cause = _CAUSES.get(self.state)
        if cause is not None:
            return Failure(cause, cancelled_by=self.cancelled_by, detail=detail)
        if STATES.get(self.state) is not JobState.FAILED:
            return None
        if number:
            return Failure(FailureCause.SIGNAL, signal=number, detail=detail)
        if code:
            return Failure(FailureCause.EXIT_CODE, exit_code=code, detail=detail)
        return Failure(FailureCause.OTHER, detail=detail)


class Slurm(BatchSystem):
    """Speak with SLURM; ``conf_path`` names another slurm.conf than the host's."""

    name = "slurm"
    family = "slurm"
    psij_executor = "slurm"
    probe = ("sinfo", "--noheader", "--format=%P")
    job_id_form = re.compile(r"[1-9]\d{0,9}(?:[_+]\d{1,9})?", re.ASCII)

    def __init__(self, conf_path: str | None = None) -> None:
        """Use the host's configuration unless another is named."""
        self.environment = {"SLURM_TIME_FORMAT": "%s"}
        if conf_path:
            self.environment["SLURM_CONF"] = conf_path

    async def run(self, *command: str, deadline: float = DEADLINE) -> Output:
        """Run a command of this cluster. Raises SchedulerUnavailable, also for its controller."""
        done = await run(*command, deadline=deadline, environment=self.environment)
        if done.status and any(words in done.stderr for words in _CANNOT_CONTACT):
            raise SchedulerUnavailable(f"{command[0]}: {done.complaint}")
        return done

    def job_id(self) -> str | None:
        """Return ``SLURM_JOB_ID``."""
        return os.environ.get("SLURM_JOB_ID") or None

    async def nodelist(self) -> list[str]:
        """Return the hosts of ``SLURM_JOB_NODELIST``."""
        nodes = os.environ.get("SLURM_JOB_NODELIST", "") if self.in_allocation() else ""
        return await self._expand(nodes) if nodes else []

    async def job_allocation(self) -> JobAllocation | None:
        """Read the job's environment, and ask squeue(1) for its walltime."""
        job_id = self.job_id()
        if job_id is None:
            return None
        found = os.environ.get
        nodes = _number(found("SLURM_NNODES") or found("SLURM_JOB_NUM_NODES"))
        if nodes is None:
            raise AllocationUnknown(
                f"job {job_id} does not tell its number of nodes: SLURM_NNODES is not set"
            )
        gpus = _GPUS.fullmatch(found("SLURM_GPUS_ON_NODE") or found("SLURM_GPUS_PER_NODE") or "")
        return JobAllocation(
            job_id=job_id,
            partition=found("SLURM_JOB_PARTITION"),
            n_nodes=nodes,
            nodelist=found("SLURM_JOB_NODELIST"),
            cpus_per_node=_number(found("SLURM_CPUS_ON_NODE")),
            gpus_per_node=int(gpus[1]) if gpus else None,
            account=found("SLURM_JOB_ACCOUNT"),
            job_name=found("SLURM_JOB_NAME"),
            runtime=await self._walltime(job_id),
        )

    async def _walltime(self, job_id: str) -> int | None:
        command = ("squeue", f"--job={self.check_id(job_id)}", "--noheader", "--format=%l")
        try:
            return seconds_of((await self.run(*command)).stdout)
        except SchedulerUnavailable:
            return None

    async def _reports(self, job_ids: list[str]) -> dict[str, JobReport]:
        """Ask the queue; of what is over or not there, the accounting, then the controller.

        The accounting knows who cancelled a job, but may lag, or not be there.
        """
        found = _by_job(await self._queue(job_ids), job_ids)
        over = [job_id for job_id in job_ids if all(row.is_over for row in found.get(job_id, ()))]
        if over:
            past = await self._accounting(over)
            known = {row.job_id: row for row in past if row.is_over}
            found = {
                job_id: [known.get(row.job_id, row) for row in rows]
                for job_id, rows in found.items()
            }
            found = _by_job(past, over) | found
        for job_id in over:
            if not all(row.is_explained for row in found.get(job_id, ())) or job_id not in found:
                found |= await self._explain(job_id, found.get(job_id, []))
        return {
            job_id: combine(job_id, [row.report() for row in rows])
            for job_id, rows in found.items()
        }

    async def _explain(self, job_id: str, rows: list[_Row]) -> dict[str, list[_Row]]:
        """Return a job's rows with what scontrol(1) still knows: the queue has no exit codes."""
        told = await self._controller(job_id)
        if not rows:
            return _by_job(told, [job_id])
        by_id = {row.job_id: row for row in told}
        return {job_id: [row if row.is_explained else by_id.get(row.job_id, row) for row in rows]}

    async def _queue(self, job_ids: list[str]) -> list[_Row]:
        done = await self.run(
            "squeue", f"--jobs={','.join(job_ids)}", "--states=all", "--array", "--noheader",
            "--format=%i|%T|%r|%N",
        )  # fmt: skip
        if done.status and _NO_SUCH_JOB not in done.stderr:
            raise SchedulerFailed(f"squeue: {done.complaint}")
        lines = (line.strip().split("|") for line in done.stdout.splitlines())
        return [_Row(*line) for line in lines if len(line) == 4]

    async def _accounting(self, job_ids: list[str]) -> list[_Row]:
        """Return what sacct(1) knows; nothing where there is no accounting."""
        done = await self.run(
            "sacct", f"--jobs={','.join(job_ids)}", "--allocations", "--noheader", "--parsable2",
            "--format=JobID,State,Reason,NodeList,ExitCode",
        )  # fmt: skip
        lines = (line.split("|") for line in done.stdout.splitlines() if not done.status)
        rows = [_Row(*line) for line in lines if len(line) == 5]
        return [await _with_canceller(row) for row in rows]

    async def _controller(self, job_id: str) -> list[_Row]:
        """Return what scontrol(1) still knows."""
        done = await self.run("scontrol", "show", "job", job_id, "--oneliner")
        return [_controller_row(line) for line in done.stdout.splitlines() if "JobState=" in line]

    async def _cancel(self, job_id: str) -> None:
        done = await self.run("scancel", job_id)
        if done.status and any(words in done.stderr for words in _DENIED):
            raise JobForbidden(f"scancel {job_id}: {done.complaint}")
        done.check()

    async def _expand(self, nodes: str) -> list[str]:
        return (await self.run("scontrol", "show", "hostnames", nodes)).check().split()


def _by_job(rows: list[_Row], job_ids: list[str]) -> dict[str, list[_Row]]:
    """Return the rows of each job that has some; those of an array's elements are the array's."""
    found: dict[str, list[_Row]] = {}
    wanted = set(job_ids)
    for row in rows:
        for job_id in {row.job_id, row.job_id.partition("_")[0]} & wanted:
            found.setdefault(job_id, []).append(row)
    return found


def _controller_row(line: str) -> _Row:
    found = dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", line))
    task = found.get("ArrayTaskId", "")
    job_id = f"{found.get('ArrayJobId')}_{task}" if task else found.get("JobId", "")
    nodes = found.get("NodeList", "").replace("(null)", "")
    return _Row(
        job_id, found["JobState"], found.get("Reason", ""), nodes, found.get("ExitCode", "0:0")
    )


async def _with_canceller(row: _Row) -> _Row:
    """Return a row of sacct(1) with ``CANCELLED by UID`` taken apart, and no ``None assigned``."""
    state, _, canceller = row.state.partition(" by ")
    nodes = row.nodes if " " not in row.nodes else ""
    name = await anyio.to_thread.run_sync(_user_name, canceller) if canceller else None
    return attrs.evolve(row, state=state.split(" ")[0], nodes=nodes, cancelled_by=name)


def _user_name(uid: str) -> str:
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (ValueError, KeyError, OverflowError):
        return uid


def _code_and_signal(ended: str) -> tuple[int, int]:
    code, _, number = ended.partition(":")
    return _number(code) or 0, _number(number) or 0


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d{1,9}", text, re.ASCII) else None
