"""Say what runs jobs on a host, without PSI/J, which is loaded when the first job needs it."""

import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import attrs

from .files import JobFiles
from .job import Job
from .models import JobRecord
from .offer import Offer


class Local(Protocol):
    """Run jobs on this host itself: `orbit_psij.executors.Executors`."""

    def close(self) -> None:
        """Stop listening; the jobs go on."""
        ...

    async def launch(self, record: JobRecord, files: JobFiles) -> str | None:
        """Start a job and return its native id."""
        ...

    async def signal(self, record: JobRecord, files: JobFiles, number: signal.Signals) -> None:
        """Send a signal to all processes of a job."""
        ...


class Scheduled(Protocol):
    """Run jobs on one scheduler: `orbit_psij.batch_jobs.BatchJobs`."""

    async def run(self) -> None:
        """Follow the jobs until cancelled."""
        ...

    async def launch(self, job: Job, known: Callable[[str], Job]) -> str:
        """Submit a job and return its native id."""
        ...

    async def end(self, job: Job) -> None:
        """Have the scheduler end a job."""
        ...

    async def nodes(self, native_id: str) -> list[str]:
        """Return the hosts that a job runs on."""
        ...

    async def resume(self, jobs: list[Job], relaunch: Callable[[Job], Awaitable[None]]) -> None:
        """Go on with jobs of an earlier process."""
        ...


@attrs.frozen
class Means:
    """Hold what runs the jobs of one plugin: on this host itself, and on its schedulers."""

    local: Local
    batches: Mapping[str, Scheduled]
    offer: Offer
