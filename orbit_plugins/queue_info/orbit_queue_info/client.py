"""Offer `QueueInfoClient`, the plugin's routes as methods."""

from typing import Any

from orbit_core import PluginClient
from orbit_core.batch import SchedulerUnavailable

ERRORS = (SchedulerUnavailable,)
"""Importing the errors of batch systems is what lets a client raise them again."""


class QueueInfoClient(PluginClient):
    """Ask an endpoint's batch system for queues, jobs and allocations.

    ``user`` None is who runs the endpoint and ``*`` is everybody; answers are at most 10 s old, or
    as old as the endpoint's setting ``cache_ttl`` says unless ``force`` is given, and tell their
    ``age`` in seconds. Methods raise OrbitError, such as
    `orbit_core.batch.SchedulerUnavailable`, and those with ``user`` RuntimeError without a session.
    """

    async def backend(self) -> str:
        """Return ``slurm``, ``pbs`` or ``none``."""
        return str((await self.get("backend"))["backend"])

    async def job_allocation(self) -> dict[str, Any] | None:
        """Return the batch job that the endpoint runs in, None outside of one.

        Raises AllocationUnknown if it is in one whose extent cannot be told.
        """
        found = (await self.get("job_allocation"))["allocation"]
        return None if found is None else dict(found)

    async def nodelist(self) -> list[str]:
        """Return the hosts of the batch job that the endpoint runs in; none outside of one."""
        return list((await self.get("nodelist"))["nodelist"])

    async def get_info(self, user: str | None = None, force: bool = False) -> dict[str, Any]:
        """Return ``{queues: {name: queue}, age}``."""
        return await self._ask("get_info", user, force)

    async def list_jobs(
        self,
        queue: str,
        user: str | None = None,
        force: bool = False,
        *,
        limit: int | None = None,
        after: str | None = None,
    ) -> dict[str, Any]:
        """Return ``{jobs, total, next, age}`` of one queue; see `list_all_jobs`."""
        return await self._ask("list_jobs", user, force, f"/{queue}", limit=limit, after=after)

    async def list_all_jobs(
        self,
        user: str | None = None,
        force: bool = False,
        *,
        limit: int | None = None,
        after: str | None = None,
    ) -> dict[str, Any]:
        """Return ``{jobs, total, next, age}``: at most ``limit`` jobs, those that follow ``after``.

        ``next`` is the ``after`` of the next page, None on the last one.
        """
        return await self._ask("list_all_jobs", user, force, limit=limit, after=after)

    async def job(self, job_id: str, force: bool = False) -> dict[str, Any]:
        """Return how a job is, also one that left the queue, and in ``why`` why it failed.

        Raises UnknownBatchJob.
        """
        flag = "true" if force else None
        return dict(await self.get(f"job/{self._require_session()}/{job_id}", force=flag))

    async def list_allocations(
        self, user: str | None = None, force: bool = False
    ) -> dict[str, Any]:
        """Return ``{allocations, age}``."""
        return await self._ask("list_allocations", user, force)

    async def cancel_job(self, job_id: str) -> dict[str, Any]:
        """Cancel a job; the ``status`` is ``canceled``, or how it had ended before.

        Raises UnknownBatchJob, JobForbidden.
        """
        return dict(await self.post(f"cancel/{self._require_session()}/{job_id}"))

    async def _ask(
        self, route: str, user: str | None, force: bool, rest: str = "", **parameters: Any
    ) -> dict[str, Any]:
        flag = "true" if force else None
        path = f"{route}/{self._require_session()}{rest}"
        return dict(await self.get(path, user=user, force=flag, **parameters))
