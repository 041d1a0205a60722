"""Collect what a batch system tells, through one cache for everybody: `QueueInfo`."""

import os
import pwd
import re
from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

import anyio.to_thread
import attrs

from orbit_core.batch import BatchSystem, JobReport, JobState, UnknownBatchJob

from .cache import QUERY_INTERVAL, Answer, Background, Cache
from .models import Allocation, Job, Queue

T = TypeVar("T")

EVERYBODY = "*"
"""The user that stands for all."""

COLLECT_DEADLINE = 60.0
"""Seconds that a command has which lists everything."""


def own_name() -> str:
    """Return the name of the user who runs this process."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def job_order(job: Job) -> tuple[int, str]:
    """Sort jobs by the number in their ids."""
    digits = re.match(r"\d{1,18}", job.job_id, re.ASCII)
    return (int(digits[0]) if digits else 0, job.job_id)


class QueueInfo(ABC):
    """Answer for the queues, jobs and allocations of one batch system.

    ``user`` None is who runs this process, and ``*`` is everybody. Each kind of query (queues; own
    jobs, all jobs; own allocations, all allocations) is put to the scheduler once in
    `QUERY_INTERVAL` at most, also with ``force``. Methods raise SchedulerUnavailable and
    SchedulerFailed.
    """

    backend_name: ClassVar[str] = "none"

    def __init__(
        self, batch: BatchSystem, background: Background, ttl: float = QUERY_INTERVAL
    ) -> None:
        """Ask ``batch`` in tasks of ``background``; answers are good for ``ttl`` seconds."""
        self.batch = batch
        self._background = background
        self._cache = Cache(background, ttl)
        self._own: str | None = None

    def start_prefetch(self) -> None:
        """Ask for queues and own allocations before anybody does."""
        self._background(self._prefetch)

    async def get_info(
        self, user: str | None = None, force: bool = False
    ) -> Answer[dict[str, Queue]]:
        """Return the queues that ``user`` may use, sorted by name."""
        name = await self._name_of(user)
        answer = await self._cache.get("info", self._collect_info, force=force)
        allowed = None if name == EVERYBODY else await self._get_user_partitions(name)
        queues = {
            name: answer.value[name]
            for name in sorted(answer.value)
            if allowed is None or name in allowed
        }
        return attrs.evolve(answer, value=queues)

    async def list_jobs(
        self, queue: str, user: str | None = None, force: bool = False
    ) -> Answer[list[Job]]:
        """Return a user's jobs in a queue, by id."""
        answer = await self.list_all_jobs(user, force)
        return attrs.evolve(
            answer, value=[job for job in answer.value if queue in job.partition.split(",")]
        )

    async def list_all_jobs(
        self, user: str | None = None, force: bool = False
    ) -> Answer[list[Job]]:
        """Return a user's jobs in all queues, by id."""
        name = await self._name_of(user)
        own = name if name == self._own else None

        async def collect() -> list[Job]:
            return sorted(await self._collect_jobs(own), key=job_order)

        answer = await self._cache.get("own jobs" if own else "all jobs", collect, force=force)
        jobs = [job for job in answer.value if name in (EVERYBODY, job.user)]
        return attrs.evolve(answer, value=jobs)

    async def job(self, job_id: str, force: bool = False) -> Answer[JobReport]:
        """Return how a job is, also one that left the queue. Raises UnknownBatchJob."""
        self.batch.check_id(job_id)

        async def collect() -> JobReport:
            return await self.batch.report(job_id)

        answer = await self._cache.get(f"job {job_id}", collect, force=force)
        if answer.value.state is JobState.UNKNOWN:
            raise UnknownBatchJob(f"{self.batch.name} knows no job {job_id}")
        return answer

    async def list_allocations(
        self, user: str | None = None, force: bool = False
    ) -> Answer[list[Allocation]]:
        """Return what a user may use of which accounts."""
        name = await self._name_of(user)
        own = name if name == self._own else None

        async def collect() -> list[Allocation]:
            return await self._collect_allocations(own)

        kind = "own allocations" if own else "all allocations"
        answer = await self._cache.get(kind, collect, force=force)
        found = [allocation for allocation in answer.value if name in (EVERYBODY, allocation.user)]
        return attrs.evolve(answer, value=found)

    async def _name_of(self, user: str | None) -> str:
        if self._own is None:
            self._own = await anyio.to_thread.run_sync(own_name)
        return user or self._own

    async def _prefetch(self) -> None:
        await self._name_of(None)
        await self._cache.get("info", self._collect_info)
        await self.list_allocations()

    @abstractmethod
    async def _collect_info(self) -> dict[str, Queue]:
        """Ask for all queues."""

    @abstractmethod
    async def _collect_jobs(self, user: str | None) -> list[Job]:
        """Ask for the jobs of a user, or of everybody."""

    @abstractmethod
    async def _collect_allocations(self, user: str | None) -> list[Allocation]:
        """Ask for the allocations of a user, or of everybody."""

    async def _get_user_partitions(self, user: str) -> set[str] | None:
        """Return the queues that a user may use; None if all."""
        return None


class QueueInfoNone(QueueInfo):
    """Have no queues: there is no scheduler here."""

    async def _collect_info(self) -> dict[str, Queue]:
        return {}

    async def _collect_jobs(self, user: str | None) -> list[Job]:
        return []

    async def _collect_allocations(self, user: str | None) -> list[Allocation]:
        return []
