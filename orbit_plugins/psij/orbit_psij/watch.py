"""Look at jobs from outside: what PSI/J does not report, their files do."""

from collections.abc import Callable

import anyio
import anyio.to_thread

from .files import Ending
from .job import Job
from .processes import is_running

WATCH_INTERVAL = 0.5
"""Seconds between looks at jobs that an earlier process of this endpoint started."""


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
        while True:
            await self._has_jobs.wait()
            await anyio.sleep(WATCH_INTERVAL)
            watched = list(self._jobs)
            for job, still in zip(watched, await survey(watched), strict=True):
                if not still:
                    self._jobs.discard(job)
                    self._on_end(job)
            if not self._jobs:
                self._has_jobs = anyio.Event()


async def survey(jobs: list[Job]) -> list[bool | None]:
    """Tell for each job whether it still runs; None stands for one that never started."""
    return await anyio.to_thread.run_sync(lambda: [_is_running(job) for job in jobs])


async def ending_of(job: Job) -> Ending | None:
    """Return a job's ending, or None if it runs on: of two starts the first one counts."""
    return await anyio.to_thread.run_sync(_ending, job)


async def remove_files(jobs: list[Job]) -> None:
    """Delete the files of jobs."""
    await anyio.to_thread.run_sync(_remove, jobs)


def _remove(jobs: list[Job]) -> None:
    for job in jobs:
        job.files.remove()


def _is_running(job: Job) -> bool | None:
    start = job.files.start()
    if start is None:
        return None
    return job.files.exit_code() is None and is_running(job.files, start)


def _ending(job: Job) -> Ending | None:
    return None if _is_running(job) else job.files.ending()
