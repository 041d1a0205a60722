"""Say to sbatch(1) and qsub(1) what a job asks for, as options and never as lines of a script.

What PSI/J's own scripts make of a job loses its name, quotes a constraint twice, and takes a line
end within a value for one of the script's.
"""

import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import attrs

from orbit_core.batch import JobReport, JobState, Output, SchedulerFailed, parse_pbs_text

from .models import JobSpec, Scalar


class Scheduler(Protocol):
    """Be what runs batch jobs: one of the core's batch systems, or what PSI/J knows of another.

    Every method raises SchedulerUnavailable and SchedulerFailed.
    """

    @property
    def name(self) -> str:
        """Return what people call it."""
        ...

    @property
    def job_id_form(self) -> re.Pattern[str]:
        """Return the form of the ids that it gives to jobs."""
        ...

    async def run(self, *command: str, deadline: float = ...) -> Output:
        """Run one of its commands."""
        ...

    async def cancel(self, job_id: str) -> JobState:
        """Cancel a job, and return in which state it was. Raises UnknownBatchJob."""
        ...

    async def reports(self, job_ids: Iterable[str]) -> dict[str, JobReport]:
        """Report on many jobs; those that it does not know are UNKNOWN."""
        ...

    async def job_nodes(self, job_id: str) -> list[str]:
        """Return the hosts that a job runs on, none if it does not tell."""
        ...

    def default_custom_attributes(self) -> dict[str, str]:
        """Return what every job needs at this site."""
        ...


@attrs.frozen
class Ticket:
    """Name what a submission needs beside the job.

    That is its script, where the scheduler's own words go, and the native ids of jobs to wait for.
    """

    script: Path
    log: Path
    after_ok: list[str]
    after_any: list[str]


class Dialect(ABC):
    """Speak one scheduler's language of submission.

    ``prefix`` is that of its custom attributes, ``id_expression`` the shell's for a running job's
    id, ``index_variable`` the variable of its number in an array, and ``nodes_command`` prints its
    hosts.
    """

    prefix: str
    id_expression: str
    index_variable: str = ""
    nodes_command: str

    @abstractmethod
    def submission(self, spec: JobSpec, ticket: Ticket, site: Mapping[str, str]) -> list[str]:
        """Return the command that submits a job; ``site`` are the site's custom attributes.

        It may block on the disk.
        """

    @abstractmethod
    def native_id(self, printed: str) -> str:
        """Return the job's id from what the command printed."""

    @abstractmethod
    def element(self, native_id: str, index: int) -> str:
        """Return the id of an element of a job array."""

    @abstractmethod
    async def logs(self, system: Scheduler) -> dict[str, str]:
        """Return the native ids of this user's jobs by the names of their logs."""

    @abstractmethod
    def faults(self, name: str) -> str | None:
        """Return what is wrong with a custom attribute of this scheduler, by its bare name."""

    def unsupported(self, spec: JobSpec) -> Iterator[str]:
        """Yield what of a job this scheduler cannot be asked for, with the reason."""
        yield from ()

    def custom(self, spec: JobSpec, site: Mapping[str, str]) -> dict[str, Scalar]:
        """Return the custom attributes for this scheduler; the job's go before the site's."""
        merged: dict[str, Scalar] = {**site, **spec.custom_attributes}
        found = ((name.partition("."), value) for name, value in merged.items())
        return {rest: value for (head, _, rest), value in found if head.lower() == self.prefix}


class SlurmDialect(Dialect):
    """Speak with sbatch(1)."""

    prefix = "slurm"
    id_expression = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}"
    index_variable = "SLURM_ARRAY_TASK_ID"
    nodes_command = "scontrol show hostnames"

    def submission(self, spec: JobSpec, ticket: Ticket, site: Mapping[str, str]) -> list[str]:
        """Return the command; a job runs once: it is not put into the queue again by itself."""
        log = str(ticket.log).replace("%", "%%")
        given = {**dict(self._options(spec, ticket)), **self.custom(spec, site)}
        return [
            "sbatch", "--parsable", "--no-requeue", "--open-mode=append", f"--output={log}",
            *(_option(name, value) for name, value in given.items() if value is not False),
            str(ticket.script),
        ]  # fmt: skip

    def _options(self, spec: JobSpec, ticket: Ticket) -> Iterator[tuple[str, Scalar]]:
        attributes, resources = spec.attributes, spec.resources
        wanted = {
            "job-name": spec.name or Path(spec.executable).name,
            "chdir": spec.directory or str(Path.home()),
            "export": "ALL" if spec.inherit_environment else "NONE",
            "partition": attributes.queue_name,
            "account": attributes.account,
            "reservation": attributes.reservation_id,
            "nodes": resources.node_count,
            "ntasks": resources.process_count,
            "ntasks-per-node": resources.processes_per_node,
            "cpus-per-task": resources.cpu_cores_per_process,
            "gpus-per-task": resources.gpu_cores_per_process or None,
            "gpus-per-node": resources.gpus_per_node or None,
            "exclusive": resources.exclusive_node_use or None,
            "array": f"0-{spec.count - 1}" if spec.count else None,
        }
        yield from ((name, value) for name, value in wanted.items() if value is not None)
        if attributes.duration is not None:
            yield "time", _clock(attributes.duration)
        if resources.memory is not None:
            yield "mem", f"{_kib_per_node(spec)}K"
        if after := _dependencies(ticket):
            yield "dependency", after
            yield "kill-on-invalid-dep", "yes"

    def native_id(self, printed: str) -> str:
        """Return what stands before the name of the cluster."""
        return printed.strip().partition(";")[0]

    def element(self, native_id: str, index: int) -> str:
        """Return ``123_4``."""
        return f"{native_id}_{index}"

    async def logs(self, system: Scheduler) -> dict[str, str]:
        """Ask squeue(1), which knows jobs that are over for some minutes."""
        columns = f"--Format=ArrayJobID:{_ID_WIDTH},STDOUT:{_PATH_WIDTH}"
        command = ("squeue", f"--user={os.getuid()}", "--states=all", "--noheader", columns)
        lines = (await system.run(*command)).check().splitlines()
        return {Path(line[_ID_WIDTH:].strip()).name: line[:_ID_WIDTH].strip() for line in lines}

    def faults(self, name: str) -> str | None:
        """Refuse what is ORBIT's own, also abbreviated, as sbatch takes it (getopt_long(3))."""
        if any(taken.startswith(name) for taken in _SBATCH_TAKEN):
            return "cannot be given: ORBIT sets it"
        return None


_ID_WIDTH, _PATH_WIDTH = 20, 4096

_SBATCH_TAKEN = (
    "array", "chdir", "error", "export", "export-file", "help", "input", "job-name",
    "kill-on-invalid-dep", "no-requeue", "open-mode", "output", "parsable", "requeue",
    "test-only", "usage", "version", "wait", "wrap",
)  # fmt: skip


class PbsDialect(Dialect):
    """Speak with qsub(1B) of PBS Pro and OpenPBS."""

    prefix = "pbs"
    id_expression = "$PBS_JOBID"
    index_variable = "PBS_ARRAY_INDEX"
    nodes_command = 'cat "$PBS_NODEFILE"'

    def submission(self, spec: JobSpec, ticket: Ticket, site: Mapping[str, str]) -> list[str]:
        """Return the command; a job runs once: it is not put into the queue again by itself."""
        custom = self.custom(spec, site)
        command = ["qsub", "-r", "n", "-S", "/bin/sh", "-j", "oe", "-o", str(ticket.log)]
        for letter, value in self._options(spec, ticket, str(custom.get("l", ""))):
            command += [f"-{letter}", value]
        if spec.inherit_environment:
            command.append("-V")
        for letter, given in custom.items():
            if given is not False:
                command += [f"-{letter}"] if given is True else [f"-{letter}", str(given)]
        return [*command, str(ticket.script)]

    def _options(self, spec: JobSpec, ticket: Ticket, own: str) -> Iterator[tuple[str, str]]:
        attributes = spec.attributes
        name = re.sub(r"[^A-Za-z0-9_.+-]", "_", spec.name or Path(spec.executable).name)
        yield "N", (name if name[0].isalnum() else f"j{name}")[:_NAME_LIMIT]
        if "select=" not in own:
            yield "l", f"select={_chunk(spec)}"
        if "place=" not in own:
            yield "l", "place=scatter" + ":exclhost" * spec.resources.exclusive_node_use
        if attributes.duration is not None:
            yield "l", f"walltime={_clock(attributes.duration)}"
        if queue := attributes.reservation_id or attributes.queue_name:
            yield "q", queue  # a reservation is a queue (pbs_rsub(1B))
        if attributes.account is not None:
            yield "A", attributes.account
        if spec.count:
            yield "J", f"0-{spec.count - 1}"
        if after := _dependencies(ticket):
            yield "W", f"depend={after}"

    def native_id(self, printed: str) -> str:
        """Return the only word."""
        return printed.strip()

    def element(self, native_id: str, index: int) -> str:
        """Return ``123[4].server`` for ``123[].server``."""
        return native_id.replace("[]", f"[{index}]")

    async def logs(self, system: Scheduler) -> dict[str, str]:
        """Ask qstat(1B), with what is over, whose jobs those are being told by their logs alone."""
        done = await system.run("qstat", "-x", "-f")
        records = parse_pbs_text(done.check())
        return {Path(record.get("Output_Path", "")).name: name for name, record in records.items()}

    def faults(self, name: str) -> str | None:
        """Refuse what is ORBIT's own, and what is no option."""
        if len(name) != 1:
            return "is no option of qsub, which is one letter"
        return "cannot be given: ORBIT sets it" if name in _QSUB_TAKEN else None


_NAME_LIMIT = 230
"""Characters of a job's name (qsub(1B))."""

_QSUB_TAKEN = "CIJNSVXefjkorvz"

DIALECTS: dict[str, type[Dialect]] = {"slurm": SlurmDialect, "pbs": PbsDialect}
"""The dialects by `orbit_core.batch.BatchSystem.family`."""


def _option(name: str, value: Scalar) -> str:
    return f"--{name}" if value is True else f"--{name}={value}"


def _clock(seconds: int) -> str:
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _kib_per_node(spec: JobSpec) -> int:
    return math.ceil((spec.resources.memory or 0) / 1024 / (spec.resources.node_count or 1))


def _chunk(spec: JobSpec) -> str:
    resources = spec.resources
    nodes = resources.node_count or 1
    processes = resources.processes_per_node or math.ceil((resources.process_count or 1) / nodes)
    gpus = resources.gpus_per_node or (resources.gpu_cores_per_process or 0) * processes
    parts = [str(nodes), f"ncpus={processes * (resources.cpu_cores_per_process or 1)}"]
    parts += [f"mpiprocs={processes}"]
    parts += [f"ngpus={gpus}"] if gpus else []
    parts += [f"mem={_kib_per_node(spec)}kb"] if resources.memory else []
    return ":".join(parts)


def _dependencies(ticket: Ticket) -> str:
    kinds = {"afterok": ticket.after_ok, "afterany": ticket.after_any}
    return ",".join(":".join([kind, *ids]) for kind, ids in kinds.items() if ids)


def read_native_id(dialect: Dialect, system: Scheduler, printed: str) -> str:
    """Return the id of a job that was just submitted. Raises SchedulerFailed if it is none."""
    found = dialect.native_id(printed)
    if not system.job_id_form.fullmatch(found):
        raise SchedulerFailed(f"{system.name} took a job, but did not tell its id: {printed!r}")
    return found
