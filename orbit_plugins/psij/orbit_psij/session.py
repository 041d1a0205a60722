"""Do one user's work with jobs."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any, ClassVar

import anyio
import anyio.to_thread

from orbit_core import PluginSession
from orbit_core.errors import BadRequest

from .files import StreamName, read_part, read_text
from .job import Job
from .jobs import Jobs
from .models import (
    Cancelled,
    JobStatus,
    JobSummary,
    Submission,
    Submitted,
    status_of,
    summary_of,
)
from .watch import POLL_INTERVAL

FOLLOW_INTERVAL = 0.1
"""Seconds between looks at the output of a running job, while somebody follows it."""

CHUNK = 64 * 1024


class PSIJSession(PluginSession):
    """Hold one user's jobs.

    When it is closed its running jobs are cancelled, and their output is deleted once they are
    over. When its endpoint stops, the jobs go on. ``poll_interval`` is the longest time between
    looks at a job whose states nobody reports, such as one found again, in seconds.
    """

    poll_interval: ClassVar[float] = POLL_INTERVAL

    def __init__(self, sid: str, jobs: Jobs, **settings: Any) -> None:
        """Share the plugin's jobs, of which it sees its own."""
        super().__init__(sid, **settings)
        self._jobs = jobs

    async def start(self, *, restored: bool) -> None:
        """Find the jobs again after a restart."""
        self._jobs.adopt(self)

    async def close(self) -> dict[str, Any]:
        """Cancel and clear away."""
        await self._jobs.discard(self._jobs.of(self.sid))
        return await super().close()

    async def submit(self, wanted: Submission, request_key: str | None = None) -> Submitted:
        """Start a job; the same ``request_key`` names the same job, also after a restart.

        Raises SubmitFailed, StateUnavailable, IdempotencyMismatch, SessionExpired.
        """
        self._check_active()
        job = await self._jobs.submit(self, wanted, request_key)
        return Submitted(job.record.job_id, job.record.native_id)

    async def status(
        self, job_id: str, stdout_offset: int = 0, stderr_offset: int = 0
    ) -> JobStatus:
        """Return a job's status, with its output from these byte offsets on. Raises UnknownJob."""
        job = self._jobs.get(self.sid, job_id)
        record = job.record
        read = partial(read_text, is_final=record.state.is_final)
        stdout, stderr = await anyio.to_thread.run_sync(
            lambda: (
                read(job.files.stream("stdout"), stdout_offset),
                read(job.files.stream("stderr"), stderr_offset),
            )
        )
        return status_of(record, stdout, stderr)

    def list_jobs(self) -> list[JobSummary]:
        """Return the session's jobs, oldest first."""
        return [summary_of(job.record) for job in self._jobs.of(self.sid)]

    async def cancel(self, job_id: str) -> Cancelled:
        """End a job and all its processes; one that is over already stays as it is.

        Raises UnknownJob, StateUnavailable.
        """
        job = self._jobs.get(self.sid, job_id)
        await self._jobs.cancel(job)
        state = job.record.state
        return Cancelled(job_id, state.lower() if state.is_final else "canceling")

    def output(
        self,
        job_id: str,
        stream: StreamName,
        offset: int,
        *,
        follow: bool,
        index: int | None = None,
    ) -> AsyncIterator[bytes]:
        """Return an iterator over an output stream's bytes; ``follow`` waits for the job's end.

        ``index`` is that of an element of a job array. Raises UnknownJob and BadRequest at once.
        """
        job = self._jobs.get(self.sid, job_id)
        if index is not None and index >= len(job.record.elements):
            raise BadRequest(f"job {job_id} has no element {index}")
        return self._follow(job, stream, offset, follow=follow, index=index)

    async def _follow(
        self, job: Job, stream: StreamName, offset: int, *, follow: bool, index: int | None
    ) -> AsyncIterator[bytes]:
        path = (job.files if index is None else job.files.element(index)).stream(stream)
        while True:
            is_over = not follow or job.is_over(index)  # asked before the last look
            part = await anyio.to_thread.run_sync(read_part, path, offset, CHUNK)
            offset += len(part)
            if part:
                yield part
            if is_over and len(part) < CHUNK:
                return
            if not part:
                with anyio.move_on_after(FOLLOW_INTERVAL):
                    await job.change()
