"""Run jobs on this host's batch system: submit, cancel, and find them again after a restart."""

import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import anyio.to_thread
import psij

from orbit_core.batch import SchedulerUnavailable, UnknownBatchJob
from orbit_core.errors import BadRequest, OrbitError

from .batch_options import Dialect, Scheduler, Ticket, read_native_id
from .batch_script import script_for
from .errors import JobRefused, SubmitFailed
from .job import Job
from .launcher import command_of
from .models import JobSpec, JobState
from .tracked import links_of, make_job

logger = logging.getLogger(__name__)

SUBMIT_DEADLINE = 60.0
"""Seconds that sbatch or qsub has."""

_ELEMENT = re.compile(r"\[\d+\]", re.ASCII)


class Batch:
    """Speak for one plugin with its host's batch system."""

    def __init__(self, system: Scheduler, dialect: Dialect, directory: Path) -> None:
        """Keep what all jobs share in ``directory``, which the nodes must see."""
        self.system = system
        self.dialect = dialect
        self._wrapper = directory / "run-job.sh"
        self._config = psij.JobExecutorConfig(work_directory=directory / "psij")
        self._site: Mapping[str, str] = system.default_custom_attributes()

    async def launch(self, job: Job, known: Callable[[str], Job]) -> str:
        """Submit a job and return its native id; ``known`` finds the jobs that it waits for.

        Raises JobRefused with the scheduler's own words, SubmitFailed, SchedulerUnavailable.
        """
        spec = job.record.spec
        after_ok, after_any = self._native(spec, known)
        ticket = Ticket(job.files.path("job"), job.files.path("batch"), after_ok, after_any)
        try:
            command = await anyio.to_thread.run_sync(self._prepare, job, ticket)
        except psij.InvalidJobException as error:
            raise SubmitFailed(f"PSI/J does not take the job: {error.message}") from error
        except OSError as error:
            raise SubmitFailed(f"the job could not be prepared: {error}") from error
        try:
            done = await self.system.run(*command, deadline=SUBMIT_DEADLINE)
        except SchedulerUnavailable:
            with suppress(OrbitError):  # it may have taken the job before it fell silent
                if native_id := (await self.find([job])).get(job.record.job_id):
                    return native_id
            raise
        if done.status:
            raise JobRefused(f"{self.system.name} does not take the job: {done.complaint}")
        return read_native_id(self.dialect, self.system, done.stdout)

    async def cancel(self, job: Job) -> None:
        """Ask the scheduler to end a job; one that it does not know needs no end."""
        if job.record.native_id is None:
            return
        try:
            await self.system.cancel(job.record.native_id)
        except UnknownBatchJob:
            logger.info("job %s left the queue before it was cancelled", job.record.job_id)
        except OrbitError as error:
            logger.warning("job %s is not cancelled yet: %s", job.record.job_id, error.detail)

    async def find(self, jobs: list[Job]) -> dict[str, str]:
        """Return the native ids of jobs that were submitted by a process that did not live to tell.

        A job that has started tells itself, another one the scheduler, in one question for all.
        Raises SchedulerUnavailable.
        """
        started = await anyio.to_thread.run_sync(
            lambda: {job.record.job_id: _place_of(job) for job in jobs}
        )
        found = {job_id: place for job_id, place in started.items() if place is not None}
        if len(found) < len(jobs):
            logs = await self.dialect.logs(self.system)
            for job in jobs:
                native_id = logs.get(job.files.path("batch").name)
                if native_id is not None:
                    found.setdefault(job.record.job_id, native_id)
        return found

    def _native(self, spec: JobSpec, known: Callable[[str], Job]) -> tuple[list[str], list[str]]:
        """Return the native ids of the jobs to wait for; those that are over need no waiting."""
        ids: list[list[str]] = []
        for kind in (spec.after_ok, spec.after_any):
            waited = [known(job_id).record for job_id in kind]
            if any(record.native_id is None for record in waited):
                raise BadRequest("a job can wait only for jobs that are in the queue already")
            pending = [record for record in waited if not record.state.is_final]
            ids.append([str(record.native_id) for record in pending])
        for job_id in spec.after_ok:
            state = known(job_id).record.state
            if state.is_final and state is not JobState.COMPLETED:
                raise BadRequest(f"job {job_id}, which is to complete before, is {state} already")
        return ids[0], ids[1]

    def _prepare(self, job: Job, ticket: Ticket) -> list[str]:
        """Write what the job needs, and return the command that submits it."""
        spec, files = job.record.spec, job.files
        theirs = make_job(job.record.job_id, spec, files, self._wrapper)
        for element in job.record.elements:
            files.element(element.index).prepare(None, links_of(spec, element.index))
        text = script_for(
            spec,
            files,
            dialect=self.dialect,
            wrapper=self._wrapper,
            job_input=Path(theirs.input or "/dev/null"),
            launch=command_of(theirs, self._config),
        )
        ticket.script.write_text(text, encoding="utf-8")
        return self.dialect.submission(spec, ticket, self._site)


def _place_of(job: Job) -> str | None:
    """Return the native id that a job, or an element of a job array, marked its start with."""
    for files in job.every_files():
        start = files.start()
        if start is not None:
            return _ELEMENT.sub("[]", start.place) or None
    return None
