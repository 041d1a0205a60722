"""Own all jobs of one plugin: start them, follow their states, end them, find them again.

A job is on disk before it is started. Its later states are written some moments after they are
known: after a crash they are read from the job's own files.
"""

import logging
import signal
import time
import uuid
from collections.abc import Iterable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import attrs

from orbit_core import PluginContext, PluginSession
from orbit_core.errors import IdempotencyMismatch, OrbitError, StateUnavailable

from .errors import SubmitFailed, UnknownJob
from .files import HOST, Ending, JobFiles
from .job import Job, Notify, Report, Verdict, judge, news_of, silent
from .journal import Journal
from .means import Loader, Means
from .models import Element, JobRecord, JobState, Submission
from .offer import LOCAL
from .retention import ExpiredJobs, Settings, due
from .watch import Exits, Sight, Watch, ending_of, remove_files, survey

logger = logging.getLogger(__name__)

FORGET_INTERVAL = 60.0
"""Seconds between looks for jobs that ended long ago."""

REQUEST_KEPT = 24 * 3600.0
"""Seconds for which a repeated request finds the job that the first one made."""

CANCEL_GRACE = 5.0
"""Seconds between asking a job's processes to end (SIGTERM) and ending them (SIGKILL)."""

_LOST = "ended without an exit code: it was killed, or its host went down"


class Jobs:
    """Keep the jobs of all sessions, by id."""

    def __init__(self, context: PluginContext) -> None:
        """Use the plugin's directory, documents and background; made on the event loop."""
        self._output = context.directory / "output"
        self._background = context.background
        self._journal = Journal(context, self._record)
        self._settings = context.settings(Settings)
        self._expired = ExpiredJobs(context)
        self._directory = context.directory / "run"
        self._scheduler = context.host.scheduler
        self.loader = Loader(self._start_means)
        self._left: list[Job] = []
        self._exits = Exits(self._on_exit)
        self._watch = Watch(lambda job: self._settle_soon(job, _report(job, _LOST)))
        self._jobs: dict[str, Job] = {}
        self._requests: dict[tuple[str, str], Job] = {}
        self._adopted: set[tuple[str, str | None]] = set()

    async def open(self) -> None:
        """Read what there is from before a restart, without acting on it yet."""
        await self._expired.load()
        for record in sorted(await self._journal.records(), key=lambda record: record.created):
            self._add(record)
        self._background(self._journal.run)
        self._background(self._watch.run)

    async def _start_means(self, starting: Any) -> Means:
        """Start PSI/J and what follows the jobs on this host's schedulers, those of before too."""
        means: Means = await starting.open_means(
            self._directory,
            self._scheduler,
            {job.record.executor for job in self._jobs.values() if _is_batch(job)},
            hear=self._hear,
            enter=self._enter,
            finish=self._finish,
        )
        for name, batch in means.batches.items():
            left = [job for job in self._left if job.record.executor == name]
            self._background(batch.run)
            self._background(batch.resume, left, self._launch)
        self._left = []
        return means

    async def close(self) -> None:
        """Let go of the jobs, which go on, and write down what is known of them."""
        if self.loader.means is not None:
            self.loader.means.local.close()
        await self._journal.flush()

    def adopt(self, session: PluginSession) -> None:
        """Tell a session, which may have come back, of its jobs from now on.

        Those of somebody else, who had a session of that id before, are not its own.
        """
        self._adopted.add((session.sid, session.owner))
        for job in self.of(session.sid):
            if job.record.owner == session.owner:
                job.notify = session.notify

    def of(self, sid: str) -> list[Job]:
        """Return a session's jobs, oldest first."""
        return [job for job in self._jobs.values() if _belongs(job, sid)]

    def busy_sids(self) -> set[str]:
        """Return the sessions that have a job which is not over."""
        return {job.record.sid for job in self._jobs.values() if not job.record.state.is_final}

    def get(self, sid: str, job_id: str) -> Job:
        """Return one of a session's jobs. Raises UnknownJob, JobExpired."""
        job = self._jobs.get(job_id)
        if job is None or not _belongs(job, sid):
            self._expired.check(sid, job_id)
            raise UnknownJob(f"session {sid} has no job {job_id}")
        return job

    async def submit(
        self, session: PluginSession, wanted: Submission, request_key: str | None
    ) -> Job:
        """Write a job down, start it, and return it; the same ``request_key`` finds the same job.

        Once begun it is carried through, even if the caller leaves. Raises SubmitFailed,
        JobRefused, SchedulerUnavailable, StateUnavailable, IdempotencyMismatch.
        """
        known = self._requests.get((session.sid, request_key or ""))
        if known is not None:
            return _checked(known, wanted)
        now = time.time()
        record = JobRecord(
            str(uuid.uuid4()),
            session.sid,
            wanted.executor,
            wanted.job_spec,
            created=now,
            changed=now,
            owner=session.owner,
            request_key=request_key,
            elements=[Element(index) for index in range(wanted.job_spec.count or 0)],
        )
        job = self._add(record, session.notify)
        with anyio.CancelScope(shield=True):
            try:
                await self._journal.write(record)
                await self._launch(job)
            except OrbitError:
                await self._delete([job])
                raise
        return job

    async def cancel(self, job: Job) -> None:
        """End a job and wait until it is gone; one that resists is killed after `CANCEL_GRACE`."""
        if not job.record.state.is_final and not job.record.cancel_requested:
            await self._journal.write(attrs.evolve(job.record, cancel_requested=True))
            job.advance(cancel_requested=True)
            if job.is_launched:
                self._background(self._end, job)
        with anyio.move_on_after(2 * CANCEL_GRACE):
            await job.until_over()

    async def fail(self, job: Job, error: str) -> None:
        """Cancel a job that is of no use, if it is not over; it counts as failed by ``error``."""
        if not job.record.state.is_final:
            job.advance(error=error)
            await self.cancel(job)

    async def nodes(self, job: Job) -> list[str]:
        """Return the hosts that a job runs on, as its scheduler calls them.

        Raises SchedulerUnavailable, SchedulerFailed.
        """
        batch = (await self.loader.get()).batches.get(job.record.executor)
        if batch is None or job.record.native_id is None:
            return [HOST]
        return await batch.nodes(job.record.native_id)

    def running(self, script: str) -> Job | None:
        """Return the job whose first argument is ``script``."""
        every = self._jobs.values()
        return next((job for job in every if job.record.spec.arguments[:1] == [script]), None)

    async def discard(self, jobs: Iterable[Job]) -> None:
        """Cancel the jobs of a session that ends, and delete each once it is over."""
        over: list[Job] = []
        for job in jobs:
            is_over = job.record.state.is_final
            self._forget_request(job)
            job.advance(discard=True, cancel_requested=job.record.cancel_requested or not is_over)
            self._journal.mark(job.record.job_id)
            if is_over:
                over.append(job)
            elif job.is_launched:
                self._background(self._end, job)
        await self._delete(over)

    async def resume(self) -> None:
        """Go on where the last process of this endpoint stopped, once the sessions are back.

        Jobs whose session did not come back are cancelled and deleted: it ended, and the process
        died before it could do so.
        """
        await self.discard(
            [
                job
                for job in self._jobs.values()
                if (job.record.sid, job.record.owner) not in self._adopted
            ]
        )
        unfinished = [job for job in self._jobs.values() if not job.record.state.is_final]
        self._left = [job for job in unfinished if _is_batch(job)]
        if self._left:
            self._background(self.loader.prepare)
        waiting = [job for job in unfinished if not _is_batch(job)]
        for job, sight in zip(waiting, await survey(waiting), strict=True):
            self._resume_one(job, sight)
        await self._let_go()
        self._background(self._keep_letting_go)

    async def _keep_letting_go(self) -> None:
        while True:
            await anyio.sleep(FORGET_INTERVAL)
            try:
                await self._let_go()
            except StateUnavailable as error:
                logger.error("old jobs stay for now: %s", error.detail)

    async def _let_go(self) -> None:
        """Delete jobs that ended long ago, with their output, and forget old requests."""
        now = time.time()
        for job in list(self._requests.values()):
            if job.record.created < now - REQUEST_KEPT:
                self._forget_request(job)
        old = due((job.record for job in self._jobs.values()), self._settings, now)
        if old:
            await self._expired.add(old, now)
            await self._delete([self._jobs[record.job_id] for record in old])

    def _resume_one(self, job: Job, sight: Sight) -> None:
        if sight.start is None and not job.record.cancel_requested:
            self._background(self._relaunch, job)
            return
        if sight.start is not None:
            job.advance(native_id=job.record.native_id or str(sight.start.pid))
        if not sight.is_running:
            self._settle_soon(job, _report(job, _LOST))
            return
        job.is_launched = True
        self._hear(_report(job, None, JobState.ACTIVE))
        self._watch.add(job)
        if job.record.cancel_requested:
            self._background(self._end, job)

    async def _relaunch(self, job: Job) -> None:
        try:
            await self._launch(job)
        except SubmitFailed as error:
            self._settle_soon(job, _report(job, error.detail))

    async def _launch(self, job: Job) -> None:
        native_id = await self._start(job)
        job.is_launched = True
        job.advance(native_id=native_id)
        self._journal.mark(job.record.job_id)
        if job.record.cancel_requested:
            self._background(self._end, job)

    async def _start(self, job: Job) -> str | None:
        means = await self.loader.get()
        if not _is_batch(job):
            native_id = await means.local.launch(job.record, job.files)
            self._background(self._exits.look, job, native_id)
            return native_id
        batch = means.batches.get(job.record.executor)
        if batch is None:
            raise SubmitFailed(f"there is no scheduler here for {job.record.executor}")
        return await batch.launch(job, partial(self.get, job.record.sid))

    async def _end(self, job: Job) -> None:
        means = await self.loader.get()
        if _is_batch(job):
            if (batch := means.batches.get(job.record.executor)) is not None:
                await batch.end(job)
            return
        await means.local.signal(job.record, job.files, signal.SIGTERM)
        with anyio.move_on_after(CANCEL_GRACE):
            await job.until_over()
            return
        await means.local.signal(job.record, job.files, signal.SIGKILL)

    def _hear(self, report: Report) -> None:
        """Take a report; what is late, repeated or goes backwards is dropped."""
        job = self._jobs.get(report.job_id)
        if job is None or not report.state.may_follow(job.record.state):
            return
        if report.state.is_final:
            self._settle_soon(job, report)
        else:
            self._enter(job, None, state=report.state, changed=report.time)

    def _settle_soon(self, job: Job, report: Report) -> None:
        if not _is_ending(job):
            job.is_settling = True
            self._background(self._settle, job, report)

    async def _settle(self, job: Job, report: Report) -> None:
        """Find out how a job ended, from its files, and make that known."""
        ending = await ending_of(job)
        if ending is None:
            job.is_settling = False
            self._watch.add(job)
            return
        verdict = judge(job.record, ending, report.exit_code, report.message)
        await self._finish(job, ending, verdict, report.time)

    async def _on_exit(self, job: Job, ending: Ending) -> None:
        """Settle a job whose process told how it ended, unless PSI/J has told it before."""
        if not _is_ending(job):
            job.is_settling = True
            await self._finish(job, ending, judge(job.record, ending, None, None))

    async def _finish(
        self, job: Job, ending: Ending, verdict: Verdict, when: float | None = None
    ) -> None:
        changes = attrs.asdict(verdict, recurse=False)
        self._enter(job, ending, **changes, changed=when or time.time())
        if job.record.discard:
            await self._delete([job])

    def _enter(self, job: Job, ending: Ending | None, **changes: Any) -> None:
        job.advance(**changes)
        self._journal.mark(job.record.job_id)
        job.notify("job_status", news_of(job.record, ending))

    def _record(self, job_id: str) -> JobRecord | None:
        job = self._jobs.get(job_id)
        return None if job is None else job.record

    def _add(self, record: JobRecord, notify: Notify = silent) -> Job:
        job = Job(record, JobFiles(self._output / record.sid / record.job_id), notify)
        self._jobs[record.job_id] = job
        if record.request_key is not None and not record.discard:
            self._requests[record.sid, record.request_key] = job
        return job

    async def _delete(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._jobs.pop(job.record.job_id, None)
            self._forget_request(job)
        if jobs:
            await self._journal.delete([job.record.job_id for job in jobs])
            await remove_files(jobs)

    def _forget_request(self, job: Job) -> None:
        place = (job.record.sid, job.record.request_key or "")
        if self._requests.get(place) is job:
            del self._requests[place]


def _is_batch(job: Job) -> bool:
    return job.record.executor != LOCAL


def _is_ending(job: Job) -> bool:
    return job.is_settling or job.record.state.is_final


def _belongs(job: Job, sid: str) -> bool:
    return job.record.sid == sid and not job.record.discard


def _checked(known: Job, wanted: Submission) -> Job:
    if (known.record.spec, known.record.executor) != (wanted.job_spec, wanted.executor):
        raise IdempotencyMismatch("this Idempotency-Key was used for another job: use a new key")
    return known


def _report(job: Job, message: str | None, state: JobState = JobState.FAILED) -> Report:
    return Report(job.record.job_id, state, time.time(), None, message)
