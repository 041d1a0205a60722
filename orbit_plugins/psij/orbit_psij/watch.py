"""Look at jobs from outside: what PSI/J does not report, their files do."""

import logging
from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread
import attrs

from .files import Ending, Start
from .job import Job
from .processes import is_running, until_exit

logger = logging.getLogger(__name__)

EXITS = 256
"""Local jobs whose end is awaited at the kernel, which takes a file each."""

FIRST_LOOK, POLL_INTERVAL = 0.5, 5.0
"""Seconds between looks at jobs that an earlier process started: at first, growing, and at most."""


class Watch:
    """Notice the end of jobs that are not this process's children."""

    def __init__(self, on_end: Callable[[Job], None]) -> None:
        """Call ``on_end`` once for each job that is over."""
        self._on_end = on_end
        self._jobs: set[Job] = set()
        self._has_jobs = anyio.Event()

    def add(self, job: Job) -> None:
        """Watch a job from now on."""
        self._jobs.add(job)
        self._has_jobs.set()

    async def run(self) -> None:
        """Look at the jobs, while there are any, until cancelled."""
        delay = FIRST_LOOK
        while True:
            await self._has_jobs.wait()
            await anyio.sleep(delay)
            delay = min(1.2 * delay, POLL_INTERVAL)
            watched = list(self._jobs)
            for job, sight in zip(watched, await survey(watched), strict=True):
                if not sight.is_running:
                    self._jobs.discard(job)
                    self._on_end(job)
            if not self._jobs:
                self._has_jobs = anyio.Event()
                delay = FIRST_LOOK


class Exits:
    """Hear of the ends of this process's local jobs from the kernel.

    PSI/J looks at them every 0.1 s, and hears of no SIGCHLD in the thread in which it is loaded.
    """

    def __init__(self, on_end: Callable[[Job, Ending], Awaitable[None]]) -> None:
        """Await ``on_end`` with what a job left behind, if its exit code is there."""
        self._on_end = on_end
        self._awaited = 0

    async def look(self, job: Job, native_id: str | None) -> None:
        """Wait for the end of a job's process; what cannot be awaited is left to PSI/J to tell."""
        if native_id is None or self._awaited >= EXITS:
            return
        self._awaited += 1
        try:
            await until_exit(int(native_id))
            ending = await ending_of(job)
        except OSError as error:
            logger.debug("the end of job %s is heard from PSI/J: %s", job.record.job_id, error)
            return
        finally:
            self._awaited -= 1
        if ending is not None and ending.exit_code is not None:
            await self._on_end(job, ending)


@attrs.frozen
class Sight:
    """Say what a job's files show: who started it, if anybody, and whether it still runs."""

    start: Start | None
    is_running: bool


async def survey(jobs: list[Job]) -> list[Sight]:
    """Look at the files of jobs, in their order."""
    return await anyio.to_thread.run_sync(lambda: [_look_at(job) for job in jobs])


async def ending_of(job: Job) -> Ending | None:
    """Return a job's ending, or None if it runs on: of two starts the first one counts."""
    return await anyio.to_thread.run_sync(_ending, job)


async def remove_files(jobs: list[Job]) -> None:
    """Delete the files of jobs; what cannot be deleted is logged."""
    await anyio.to_thread.run_sync(_remove, jobs)


def _remove(jobs: list[Job]) -> None:
    for job in jobs:
        try:
            for files in job.every_files():
                files.remove()
        except OSError as error:
            logger.warning("files of job %s stay: %s", job.record.job_id, error)


def _look_at(job: Job) -> Sight:
    start = job.files.start()
    if start is None or job.files.exit_code() is not None:
        return Sight(start, is_running=False)
    return Sight(start, is_running=is_running(job.files, start))


def _ending(job: Job) -> Ending | None:
    return None if _look_at(job).is_running else job.files.ending()
