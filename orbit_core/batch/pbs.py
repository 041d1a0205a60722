"""Speak with PBS Pro and OpenPBS: qstat(1B), qdel(1B)."""

import os
import re
from pathlib import Path

import anyio.to_thread

from .commands import DEADLINE, Output, run
from .durations import seconds_of
from .errors import AllocationUnknown, JobForbidden, SchedulerFailed, SchedulerUnavailable
from .models import Failure, FailureCause, JobAllocation, JobReport, JobState, combine
from .pbs_records import Record, parse_pbs_text
from .system import BatchSystem

STATES = {
    **dict.fromkeys("QWT", JobState.PENDING),
    **dict.fromkeys("RBE", JobState.RUNNING),
    **dict.fromkeys("HSMU", JobState.HELD),
    **dict.fromkeys("FX", JobState.DONE),
}
"""Every state of qstat(1B); F and X are DONE only with exit status 0."""

_UNKNOWN_JOB, _NO_PERMISSION, _FINISHED = 153, 159, 35
_TERMINATED = "91"
"""Substate of a job that was deleted (openpbs, job.h)."""

_BY_SIGNAL = 256
_KILLED = {265, 271}
"""Exit status of a job that qdel ended: 256 + SIGKILL, or SIGTERM."""

_CAUSES = {-29: FailureCause.WALLTIME, -27: FailureCause.OUT_OF_MEMORY}
"""PBS's own reasons (openpbs, job.h: JOB_EXEC_KILL_WALLTIME, JOB_EXEC_KILL_MEM)."""

_RESOURCE = re.compile(r"(\w+)=(\d{1,9})", re.ASCII)


class PbsPro(BatchSystem):
    """Speak with PBS Pro or OpenPBS."""

    name = "pbs"
    family = "pbs"
    psij_executor = "pbs"
    probe = ("qstat", "-B")
    job_id_form = re.compile(
        r"\d{1,10}(?:\[\d{0,9}\])?(?:\.[A-Za-z0-9][A-Za-z0-9.-]{0,254})?", re.ASCII
    )

    def __init__(self) -> None:
        """Start without memory of what was cancelled here."""
        self._cancelled: set[str] = set()

    async def run(self, *command: str, deadline: float = DEADLINE) -> Output:
        """Run a command. Raises SchedulerUnavailable, also if it does not reach its server."""
        done = await run(*command, deadline=deadline)
        if done.status and "cannot connect to server" in done.stderr:
            raise SchedulerUnavailable(f"{command[0]}: {done.complaint}")
        return done

    def job_id(self) -> str | None:
        """Return ``PBS_JOBID``."""
        return os.environ.get("PBS_JOBID") or None

    async def nodelist(self) -> list[str]:
        """Return the hosts of ``PBS_NODEFILE``, each once, without their domain."""
        path = os.environ.get("PBS_NODEFILE") if self.in_allocation() else None
        if not path:
            return []
        try:
            text = await anyio.to_thread.run_sync(Path(path).read_text)
        except OSError:
            return []
        return list(dict.fromkeys(name.partition(".")[0] for name in text.split()))

    async def job_allocation(self) -> JobAllocation | None:
        """Read the job's environment, and ask qstat for the rest."""
        job_id = self.job_id()
        if job_id is None:
            return None
        record, nodes, found = await self._own_record(job_id), await self.nodelist(), os.environ.get
        count = len(nodes) or _number(record.get("Resource_List.nodect", ""))
        if not count:
            raise AllocationUnknown(
                f"job {job_id} does not tell its number of nodes: PBS_NODEFILE cannot be read"
            )
        chunk = dict(_RESOURCE.findall(record.get("Resource_List.select", "")))
        return JobAllocation(
            job_id=job_id,
            partition=found("PBS_QUEUE") or found("PBS_O_QUEUE") or record.get("queue"),
            n_nodes=count,
            nodelist=",".join(nodes) or None,
            cpus_per_node=_number(chunk.get("ncpus", "")),
            gpus_per_node=_number(chunk.get("ngpus", "")),
            account=found("PBS_ACCOUNT") or record.get("Account_Name"),
            job_name=found("PBS_JOBNAME") or record.get("Job_Name"),
            runtime=seconds_of(record.get("Resource_List.walltime", "")),
        )

    async def _own_record(self, job_id: str) -> Record:
        try:
            done = await self.run("qstat", "-f", self.check_id(job_id))
        except SchedulerUnavailable:
            return {}
        return next(iter(parse_pbs_text(done.stdout).values()), {})

    async def _reports(self, job_ids: list[str]) -> dict[str, JobReport]:
        """Ask for jobs and their history in one; a server without history knows the living only."""
        done = await self.run("qstat", "-x", "-f", *job_ids)
        if done.status not in (0, _UNKNOWN_JOB, _FINISHED):
            raise SchedulerFailed(f"qstat: {done.complaint}")
        records = parse_pbs_text(done.stdout)
        reports: dict[str, list[JobReport]] = {}
        for name, record in records.items():
            for job_id in job_ids:
                if _is_same(job_id, name):
                    reports.setdefault(job_id, []).append(self._report(job_id, record))
        return {job_id: combine(job_id, elements) for job_id, elements in reports.items()}

    def _report(self, job_id: str, record: Record) -> JobReport:
        letter = record.get("job_state", "")
        nodes = record.get("exec_host", "")
        state = STATES.get(letter, JobState.UNKNOWN)
        if state is not JobState.DONE:
            return JobReport(job_id, state, letter, nodes=nodes)
        status = _signed(record.get("Exit_status", ""))
        if self._was_cancelled(job_id, record, status):
            failure = Failure(FailureCause.CANCELLED)
            return JobReport(job_id, JobState.CANCELLED, letter, None, failure, nodes)
        failed = _failure(status or 0, record.get("comment", ""))
        exit_code = status if status is not None and 0 <= status < _BY_SIGNAL else None
        return JobReport(
            job_id, JobState.FAILED if failed else state, letter, exit_code, failed, nodes
        )

    def _was_cancelled(self, job_id: str, record: Record, status: int | None) -> bool:
        """Tell whether somebody deleted a job: we, or as its substate or comment says."""
        ended_by = record.get("comment", "").endswith("and terminated")
        was_ours = job_id in self._cancelled and (status is None or status in _KILLED)
        return record.get("substate") == _TERMINATED or ended_by or was_ours

    async def _cancel(self, job_id: str) -> None:
        done = await self.run("qdel", job_id)
        if done.status == _NO_PERMISSION:
            raise JobForbidden(f"qdel {job_id}: {done.complaint}")
        if done.status != _FINISHED:
            done.check()
            self._cancelled.add(job_id)

    async def _expand(self, nodes: str) -> list[str]:
        """Return the hosts of ``node01/0*4+node02/0*4``."""
        return list(dict.fromkeys(place.partition("/")[0] for place in nodes.split("+")))


class AuroraPbs(PbsPro):
    """Speak with PBS on Aurora, where a job must say which file systems it uses."""

    name = "pbs-aurora"

    def default_custom_attributes(self) -> dict[str, str]:
        """Return the file systems."""
        return {"pbs.l": "filesystems=home:flare"}


def _is_same(job_id: str, name: str) -> bool:
    """Tell whether a record called ``123[4].server`` belongs to the job, or to the array, named."""
    wanted, full = job_id.partition(".")[0], name.partition(".")[0]
    return wanted == full or (wanted.endswith("[]") and full.startswith(wanted[:-1]))


def _failure(status: int, comment: str) -> Failure | None:
    if status == 0:
        return None
    if status in _CAUSES:
        return Failure(_CAUSES[status], detail=comment)
    if status < 0:
        return Failure(FailureCause.OTHER, detail=f"PBS ended it with {status}: {comment}")
    if status >= _BY_SIGNAL:
        return Failure(FailureCause.SIGNAL, signal=status - _BY_SIGNAL, detail=comment)
    return Failure(FailureCause.EXIT_CODE, exit_code=status, detail=comment)


def _signed(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?\d{1,9}", text, re.ASCII) else None


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else None
