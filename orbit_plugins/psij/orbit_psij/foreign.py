"""Run jobs on the schedulers that PSI/J knows and the core does not: LSF, Cobalt, Torque, others.

PSI/J tells which commands to run and what they answer. The rest is as for every batch job: what the
job runs under, how its end is noticed, how it is found again. Where a template of PSI/J 0.9.11
says something other than what was asked for, it is put right here.
"""

import json
import logging
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import attrs
import psij
from psij.executors.batch.batch_scheduler_executor import (
    UNKNOWN_ERROR,
    BatchSchedulerExecutor,
    BatchSchedulerExecutorConfig,
)

from orbit_core.batch import (
    Failure,
    FailureCause,
    JobReport,
    JobState,
    Output,
    SchedulerFailed,
    run,
)

from .batch_options import Dialect, Scheduler, Ticket
from .models import JobSpec
from .tracked import translated

logger = logging.getLogger(__name__)

ANSWER_DEADLINE = 10.0
"""Seconds that a command has which asks, or cancels."""

_STATES = {
    psij.JobState.NEW: JobState.PENDING,
    psij.JobState.QUEUED: JobState.PENDING,
    psij.JobState.ACTIVE: JobState.RUNNING,
    psij.JobState.COMPLETED: JobState.DONE,
    psij.JobState.FAILED: JobState.FAILED,
    psij.JobState.CANCELED: JobState.CANCELLED,
}

_CAUSES = {
    "TERM_RUNLIMIT": FailureCause.WALLTIME,
    "TERM_DEADLINE": FailureCause.DEADLINE,
    "TERM_MEMLIMIT": FailureCause.OUT_OF_MEMORY,
    "TERM_PREEMPT": FailureCause.PREEMPTION,
    "TERM_OWNER": FailureCause.CANCELLED,
    "TERM_ADMIN": FailureCause.CANCELLED,
    "TERM_FORCE_OWNER": FailureCause.CANCELLED,
    "TERM_FORCE_ADMIN": FailureCause.CANCELLED,
}
"""What LSF says of a job that it ended (bjobs(1), EXIT_REASON)."""


@attrs.frozen
class Kind:
    """Say what PSI/J does not tell of a scheduler.

    ``commands`` are those that it is driven with; ``reads_input`` says that the command which
    submits looks for directives in its standard input only. The others are as `Dialect` has them.
    """

    commands: tuple[str, ...]
    prefix: str
    id_expression: str = ""
    nodes_command: str = 'cat "$PSIJ_NODEFILE"'
    reads_input: bool = False


KINDS = {
    "lsf": Kind(  # bsub SCRIPT reads directives only where LSB_BSUB_PARSE_SCRIPT is set (bsub(1))
        ("bsub", "bjobs", "bkill"), "lsf", "$LSB_JOBID", 'cat "$LSB_DJOB_HOSTFILE"', True
    ),
    "cobalt": Kind(("qsub", "qstat", "qdel"), "cobalt", "$COBALT_JOBID"),
    "pbs_classic": Kind(("qsub", "qstat", "qdel"), "pbs", "$PBS_JOBID"),
}


def make_executor(name: str, directory: Path) -> BatchSchedulerExecutor:
    """Return PSI/J's executor.

    Raises ValueError if PSI/J cannot load it, or it does not drive a scheduler by its commands.
    """
    config = BatchSchedulerExecutorConfig(work_directory=directory)
    found = psij.JobExecutor.get_instance(name, config=config)
    if not isinstance(found, BatchSchedulerExecutor):
        raise ValueError(f"PSI/J's executor {name} does not drive a scheduler by its commands")
    return found


def kind_of(name: str, executor: BatchSchedulerExecutor) -> Kind:
    """Return what is known of a scheduler, or may be taken for granted."""
    asked = (executor.get_status_command(["1"])[0], executor.get_cancel_command("1")[0])
    return KINDS.get(name) or Kind(asked, name)


class ForeignDialect(Dialect):
    """Have PSI/J write the script that is submitted, which becomes that of the job."""

    def __init__(self, executor: BatchSchedulerExecutor, kind: Kind) -> None:
        """Speak as this executor of PSI/J does."""
        self._executor = executor
        self.prefix = kind.prefix
        self.id_expression = kind.id_expression
        self.nodes_command = kind.nodes_command
        self._reads_input = kind.reads_input

    def submission(self, spec: JobSpec, ticket: Ticket, site: Mapping[str, str]) -> list[str]:
        """Write PSI/J's script beside the job's, and return the command that submits it."""
        path = ticket.script.with_suffix(".submit")
        job = _NamedJob(self._asked(spec, site))
        context = self._executor._create_script_context(job)
        context["duration"] = context.get("formatted_job_duration", "")  # as Cobalt's template says
        context["psij"] = {"launch_command": ["exec", "/bin/sh", ticket.script], "script_dir": "/"}
        with path.open("w") as file:
            self._executor.generate_submit_script(job, context, file)
        log = shlex.quote(str(ticket.log))
        text = _REDIRECTION.sub(lambda _: f"exec >>{log} 2>&1", path.read_text())
        path.write_text(text)
        command = self._executor.get_submit_command(job, path)
        if self._reads_input:
            return ["/bin/sh", "-c", 'exec "$0" <"$1"', command[0], str(path)]
        return command

    def native_id(self, printed: str) -> str:
        """Return what PSI/J finds, nothing if it finds none."""
        try:
            return self._executor.job_id_from_submit_output(printed)
        except (psij.SubmitException, IndexError):
            return ""

    def element(self, native_id: str, index: int) -> str:
        """Return the id of the whole: there are no job arrays."""
        return native_id

    async def logs(self, system: Scheduler) -> dict[str, str]:
        """Return nothing: these schedulers do not tell of a job what it was submitted with.

        One whose submission was not noted is submitted again, and whichever starts first runs.
        """
        return {}

    def faults(self, name: str) -> str | None:
        """Take every option, as PSI/J does."""
        return None

    def unsupported(self, spec: JobSpec) -> Iterator[str]:
        """Refuse what PSI/J has no words for."""
        given = {
            "count": spec.count is not None,
            "after_ok": bool(spec.after_ok),
            "after_any": bool(spec.after_any),
            "resources.gpus_per_node": spec.resources.gpus_per_node is not None,
        }
        yield from (f"{name}: PSI/J cannot ask for it there" for name in given if given[name])

    def _asked(self, spec: JobSpec, site: Mapping[str, str]) -> psij.JobSpec:
        """Return what the scheduler is to be told; the rest is in the job's own script."""
        theirs = translated(spec)
        custom: dict[str, object] = {
            f"{self.prefix}.{key}": value for key, value in self.custom(spec, site).items()
        }
        name = re.sub(r"[^A-Za-z0-9_.+-]", "_", spec.name or Path(spec.executable).name)
        if self.prefix == "pbs":  # for which its template has a form that qsub does not take
            custom.setdefault("pbs.N", name)
        else:
            theirs.name = name
        theirs.attributes.custom_attributes = custom or None
        theirs.directory = theirs.environment = None
        theirs.launcher = "single"
        return theirs


_REDIRECTION = re.compile(r"^exec &>> .*$", re.MULTILINE)


class _NamedJob(psij.Job):
    """Have a name where the templates of PSI/J look for it."""

    @property
    def name(self) -> str | None:
        """Return the job's name."""
        return None if self.spec is None else self.spec.name


class ForeignScheduler:
    """Drive one scheduler with the commands that PSI/J names."""

    job_id_form = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)

    def __init__(self, name: str, executor: BatchSchedulerExecutor) -> None:
        """Be what PSI/J calls ``name``."""
        self.name = name
        self._executor = executor

    async def run(self, *command: str, deadline: float = ANSWER_DEADLINE) -> Output:
        """Run a command. Raises SchedulerUnavailable."""
        return await run(*command, deadline=deadline)

    async def cancel(self, job_id: str) -> JobState:
        """Cancel a job; whether it was there is not told. Raises SchedulerFailed."""
        (await self.run(*self._executor.get_cancel_command(job_id))).check()
        return JobState.UNKNOWN

    async def reports(self, job_ids: Iterable[str]) -> dict[str, JobReport]:
        """Report on jobs with one command, or more if PSI/J does not understand its answer."""
        wanted = list(dict.fromkeys(job_ids))
        found = await self._statuses(wanted) if wanted else {}
        return {job_id: found.get(job_id) or _unknown(job_id) for job_id in wanted}

    async def job_nodes(self, job_id: str) -> list[str]:
        """Return none: PSI/J does not ask."""
        return []

    def default_custom_attributes(self) -> dict[str, str]:
        """Return none."""
        return {}

    async def _statuses(self, job_ids: list[str]) -> dict[str, JobReport]:
        """Ask for all jobs; one that PSI/J cannot read must not hide the others."""
        done = await self.run(*self._executor.get_status_command(job_ids))
        text, reasons = _without_reasons(done.stdout)
        try:
            found = self._parsed(done, text)
        except Exception as error:  # whatever a parser meets that asserts
            if not text.strip() and not _ABSENT.search(done.stderr):
                raise SchedulerFailed(f"{done.command[0]}: {done.complaint}") from error
            if len(job_ids) == 1:
                return self._unread(job_ids[0], done, error)
            half = len(job_ids) // 2
            first, second = job_ids[:half], job_ids[half:]
            return {**await self._statuses(first), **await self._statuses(second)}
        return {
            job_id: _report(job_id, status, reasons.get(job_id, ""))
            for job_id, status in found.items()
        }

    def _parsed(self, done: Output, text: str) -> dict[str, psij.JobStatus]:
        """Return what PSI/J makes of an answer: what was printed counts before the exit status."""
        if text.strip():
            return self._executor.parse_status_output(0, text)
        return self._executor.parse_status_output(done.status, done.stderr or UNKNOWN_ERROR)

    def _unread(self, job_id: str, done: Output, error: Exception) -> dict[str, JobReport]:
        """Take a job for one that waits, unless the command failed because it is not there."""
        if done.status:
            return {}
        logger.warning("PSI/J does not understand job %s of %s: %r", job_id, self.name, error)
        return {job_id: JobReport(job_id, JobState.PENDING)}


_ABSENT = re.compile("unknown job|not found|no such job|no matching", re.IGNORECASE)

_REASONS = ("EXIT_REASON", "KILL_REASON", "SUSPEND_REASON")


def _without_reasons(text: str) -> tuple[str, dict[str, str]]:
    """Take the reasons out of what LSF says, and return both: PSI/J 0.9.11 fails at one."""
    try:
        answer = json.loads(text)
        records = answer["RECORDS"]
        reasons = {
            record["JOBID"]: next(filter(None, map(record.get, _REASONS)), "") for record in records
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        return text, {}
    for record in records:
        record.update(dict.fromkeys(_REASONS, ""))
    return json.dumps(answer), reasons


def _report(job_id: str, status: psij.JobStatus, reason: str) -> JobReport:
    """Return what a status of PSI/J says, and LSF's ``reason`` for it."""
    state, word = _STATES[status.state], status.state.name
    if state is JobState.CANCELLED:
        return JobReport(job_id, state, word, failure=Failure(FailureCause.CANCELLED))
    if state is not JobState.FAILED:
        return JobReport(job_id, state, word)
    cause = _CAUSES.get(reason.partition(":")[0].strip())
    if cause is FailureCause.CANCELLED:
        state = JobState.CANCELLED
    return JobReport(
        job_id, state, word, failure=None if cause is None else Failure(cause, detail=reason)
    )


def _unknown(job_id: str) -> JobReport:
    return JobReport(job_id, JobState.UNKNOWN)
