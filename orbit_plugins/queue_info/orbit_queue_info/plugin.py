"""Serve a batch system's queues, jobs and allocations on an endpoint."""

from typing import Any, ClassVar

import anyio.to_thread
from starlette.requests import Request

from orbit_core import HostInfo, HostRole, Plugin, UIConfig, hookimpl
from orbit_core.batch import JobAllocation, batch_system
from orbit_core.context import PluginContext
from orbit_core.models import UIMonitor
from orbit_core.web import flag_parameter, integer_parameter

from .backends import make_queue_info
from .info import QueueInfo
from .models import Job, JobEnd, QueueInfoSettings
from .pages import page_of
from .session import QueueInfoSession


class PluginQueueInfo(Plugin):
    """Show queues, jobs and allocations, and cancel jobs; all sessions share one cache."""

    plugin_name: ClassVar[str] = "queue_info"
    session_class = QueueInfoSession
    version: ClassVar[str] = "0.1.0"
    ui_config: ClassVar[UIConfig | dict[str, Any] | None] = UIConfig(
        title="Queue Info",
        icon="clipboard",
        description="Queues, jobs and allocations of the batch system.",
        refresh_button=True,
        monitors=[
            UIMonitor(
                "partitions", "Queues", "table", "queueinfo-content", auto_load="get_info/{sid}"
            )
        ],
    )
    info: QueueInfo

    def __init__(
        self,
        context: PluginContext,
        instance_name: str | None = None,
        backend_conf: str | None = None,
        slurm_conf: str | None = None,
    ) -> None:
        """Declare the routes; the arguments go before the settings of the same names."""
        super().__init__(context, instance_name)
        self._settings = context.settings(QueueInfoSettings)
        self._conf = (
            backend_conf or slurm_conf or self._settings.backend_conf or self._settings.slurm_conf
        )
        self.add_route_get("backend", self._backend)
        self.add_route_get("job_allocation", self._job_allocation)
        self.add_route_get("nodelist", self._nodelist)
        self.add_route_get("get_info/{sid}", self._get_info)
        self.add_route_get("list_jobs/{sid}/{queue}", self._list_jobs)
        self.add_route_get("list_all_jobs/{sid}", self._list_jobs)
        self.add_route_get("job/{sid}/{job_id}", self._job)
        self.add_route_get("list_allocations/{sid}", self._list_allocations)
        self.add_route_post("cancel/{sid}/{job_id}", self._cancel)

    @classmethod
    @hookimpl
    def is_enabled(cls, host: HostInfo) -> bool:
        """Serve hosts on which a scheduler answers, other than the bridge."""
        return host.scheduler != "none" and host.role is not HostRole.BRIDGE

    async def start(self) -> None:
        """Begin to collect."""
        system = await anyio.to_thread.run_sync(batch_system, self.context.host.scheduler)
        self.info = make_queue_info(
            system, self._conf, background=self.context.background, ttl=self._settings.cache_ttl
        )
        self.info.start_prefetch()

    async def get_job_allocation(self) -> JobAllocation | None:
        """Describe the batch job that this host runs in. Raises AllocationUnknown."""
        return await self.info.batch.job_allocation()

    def _create_session(self, sid: str, **settings: Any) -> QueueInfoSession:
        return QueueInfoSession(sid, self.info, **settings)

    async def _backend(self, request: Request) -> dict[str, str]:
        """Tell which kind of batch system is here: ``slurm``, ``pbs`` or ``none``."""
        return {"backend": self.info.backend_name}

    async def _job_allocation(self, request: Request) -> dict[str, JobAllocation | None]:
        """Describe the batch job that this host runs in, if it does."""
        return {"allocation": await self.get_job_allocation()}

    async def _nodelist(self, request: Request) -> dict[str, list[str]]:
        """List the hosts of the batch job that this host runs in, in the scheduler's order."""
        return {"nodelist": await self.info.batch.nodelist()}

    async def _get_info(self, request: Request) -> dict[str, Any]:
        """Return the queues that ``user`` (``*``: everybody) may use."""
        session: QueueInfoSession = await self.session(request)
        answer = await session.get_info(*_whose(request))
        return {"queues": answer.value, "age": answer.age}

    async def _list_jobs(self, request: Request) -> dict[str, Any]:
        """Return the jobs of ``user``: at most ``limit`` of them, those that follow ``after``."""
        session: QueueInfoSession = await self.session(request)
        answer = await session.list_jobs(request.path_params.get("queue"), *_whose(request))
        limit, after = integer_parameter(request, "limit"), request.query_params.get("after")
        jobs: list[Job] = answer.value
        page, following = page_of(jobs, limit, after)
        return {"jobs": page, "total": len(jobs), "next": following, "age": answer.age}

    async def _job(self, request: Request) -> JobEnd:
        """Tell how any job is, also one that left the queue, and why it failed."""
        session: QueueInfoSession = await self.session(request)
        return await session.job(request.path_params["job_id"], flag_parameter(request, "force"))

    async def _list_allocations(self, request: Request) -> dict[str, Any]:
        """Return what ``user`` may use of which accounts."""
        session: QueueInfoSession = await self.session(request)
        answer = await session.list_allocations(*_whose(request))
        return {"allocations": answer.value, "age": answer.age}

    async def _cancel(self, request: Request) -> dict[str, str]:
        """Cancel a job of the user who runs this host."""
        session: QueueInfoSession = await self.session(request)
        job_id = request.path_params["job_id"]
        return {"job_id": job_id, "status": await session.cancel(job_id)}


def _whose(request: Request) -> tuple[str | None, bool]:
    return request.query_params.get("user"), flag_parameter(request, "force")
