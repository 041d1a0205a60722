"""Say what runs jobs on a host, and load it, with PSI/J, when the first job needs it."""

import logging
import signal
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Protocol

import anyio
import anyio.to_thread
import attrs

from .errors import SubmitFailed
from .files import JobFiles
from .job import Job
from .models import JobRecord
from .offer import Offer

logger = logging.getLogger(__name__)


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


class Loader:
    """Load the means once, however many ask for them; a load that failed is tried anew."""

    def __init__(self, start: Callable[[ModuleType], Awaitable[Means]]) -> None:
        """Have ``start`` make them with the module `orbit_psij.starting`."""
        self._start = start
        self._lock = anyio.Lock()
        self.means: Means | None = None

    async def get(self) -> Means:
        """Return the means. Raises SubmitFailed."""
        if self.means is None:
            async with self._lock:
                if self.means is None:
                    self.means = await self._load()
        return self.means

    async def prepare(self) -> None:
        """Load them, so that no job waits for that; a failure is logged here, and told to each."""
        try:
            await self.get()
        except SubmitFailed as error:
            logger.error("no jobs can run: %s", error.detail)

    async def _load(self) -> Means:
        # It warns that in a thread it hears of no SIGCHLD, in place of which is `watch.Exits`.
        logging.getLogger("psij.executors.local").setLevel(logging.ERROR)
        try:
            module = await anyio.to_thread.run_sync(import_module, ".starting", __package__)
            return await self._start(module)
        except Exception as error:  # what a broken installation raises may be anything
            fault = f"{type(error).__name__}: {error}"
            raise SubmitFailed(f"PSI/J does not load here: {fault}") from error
