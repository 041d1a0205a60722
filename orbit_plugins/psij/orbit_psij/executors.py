"""Call PSI/J for jobs on this host: one executor for all, every call in a worker thread."""

import signal
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import psij

from . import launcher, processes
from .errors import SubmitFailed
from .files import JobFiles, write_wrapper
from .job import Report
from .models import JobRecord, JobState
from .offer import LOCAL
from .tracked import TrackedJob, leave_session, make_job

THREADS = 4
"""Worker threads for calls of PSI/J: more only wait for each other."""

T = TypeVar("T")


class Executors:
    """Hold PSI/J's local executor and pass on what it reports."""

    def __init__(self, directory: Path, hear: Callable[[Report], None]) -> None:
        """Keep PSI/J's own files in ``directory``; ``hear`` is called on the loop for each report.

        Made on the event loop.
        """
        self._directory = directory
        self._hear = hear
        self._wrapper = directory / "run-job.sh"
        self._executor: psij.JobExecutor | None = None
        self._limiter = anyio.CapacityLimiter(THREADS)
        self._waiting: deque[Report] = deque()
        self._loop: Any = anyio.lowlevel.current_token().native_token
        self._context = copy_context()  # a thread's own does not tell anyio where it is
        self._is_scheduled = False
        self._is_closed = False

    async def open(self) -> None:
        """Make the executor."""
        await self._call(self._open)

    def close(self) -> None:
        """Stop listening; the jobs go on."""
        self._is_closed = True

    async def launch(self, record: JobRecord, files: JobFiles) -> str | None:
        """Start a job and return its native id. Raises SubmitFailed with PSI/J's reason."""
        try:
            return await self._call(self._launch, record, files)
        except psij.InvalidJobException as error:
            raise SubmitFailed(f"PSI/J does not take the job: {error.message}") from error
        except psij.SubmitException as error:
            reason = error.message if error.exception is None else error.exception
            raise SubmitFailed(f"PSI/J could not start the job: {reason}") from error
        except OSError as error:
            raise SubmitFailed(f"the job could not be prepared: {error}") from error

    async def signal(self, record: JobRecord, files: JobFiles, number: signal.Signals) -> None:
        """Send a signal to all processes of a job, if it still runs."""
        await self._call(processes.send_signal, files, record.native_id, number)

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        return await anyio.to_thread.run_sync(partial(function, *arguments), limiter=self._limiter)

    def _open(self) -> None:
        launcher.register()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_wrapper(self._directory)
        config = psij.JobExecutorConfig(work_directory=self._directory / "psij")
        executor = psij.JobExecutor.get_instance(LOCAL, config=config)
        executor.set_job_status_callback(self._on_status)
        self._executor = executor

    def _launch(self, record: JobRecord, files: JobFiles) -> str | None:
        job = make_job(record.job_id, record.spec, files, self._wrapper)
        leave_session(job)
        assert self._executor is not None
        self._executor.submit(job)
        return job.native_id

    def _on_status(self, job: psij.Job, status: psij.JobStatus) -> None:
        """Take a report from PSI/J: the one place where its threads enter the event loop.

        It must not wait for the loop, or a busy loop would hold up PSI/J for all jobs.
        """
        if not isinstance(job, TrackedJob) or self._is_closed:
            return
        state = JobState(status.state.name)
        self._waiting.append(
            Report(job.job_id, state, status.time, status.exit_code, status.message)
        )
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon_threadsafe(self._drain, context=self._context)

    def _drain(self) -> None:
        self._is_scheduled = False
        while self._waiting:
            self._hear(self._waiting.popleft())
