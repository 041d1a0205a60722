"""Offer `QueueInfoSession`, one client's view of what all sessions share."""

from typing import Any

from orbit_core import PluginSession

from .cache import Answer
from .info import QueueInfo
from .models import Allocation, Job, JobEnd, Queue, job_end


class QueueInfoSession(PluginSession):
    """Answer one client from the shared cache. Methods raise SessionExpired once closed."""

    def __init__(self, sid: str, info: QueueInfo, /, **settings: Any) -> None:
        """Share what answers; there are no settings to take."""
        super().__init__(sid, **settings)
        self._info = info

    async def get_info(self, user: str | None, force: bool) -> Answer[dict[str, Queue]]:
        """Return the queues."""
        self._check_active()
        return await self._info.get_info(user, force)

    async def list_jobs(
        self, queue: str | None, user: str | None, force: bool
    ) -> Answer[list[Job]]:
        """Return the jobs in one queue, or in all."""
        self._check_active()
        if queue is None:
            return await self._info.list_all_jobs(user, force)
        return await self._info.list_jobs(queue, user, force)

    async def job(self, job_id: str, force: bool) -> JobEnd:
        """Return how a job is, and why it failed. Raises UnknownBatchJob."""
        self._check_active()
        answer = await self._info.job(job_id, force)
        return job_end(answer.value, answer.age)

    async def list_allocations(self, user: str | None, force: bool) -> Answer[list[Allocation]]:
        """Return the allocations."""
        self._check_active()
        return await self._info.list_allocations(user, force)

    async def cancel(self, job_id: str) -> str:
        """Cancel a job, and return ``canceled``, or how it had ended before."""
        self._check_active()
        state = await self._info.batch.cancel(job_id)
        return state.lower() if state.is_final else "canceled"
