"""Serve jobs on an endpoint."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import BaseRoute

from orbit_core import HostInfo, HostRole, Plugin, hookimpl
from orbit_core.context import PluginContext
from orbit_core.errors import BadRequest, ConfigError
from orbit_core.models import Topology, UIConfig
from orbit_core.web import flag_parameter, integer_parameter, json_body, principal_of, takes

from .children.models import ChildSubmitted, TunnelStatus
from .children.request import read_child
from .files import StreamName
from .models import LAUNCHERS, Cancelled, JobStatus, Submission, Submitted
from .portal import UI
from .retention import Settings
from .specs import read_submission

try:
    if find_spec("psij") is None:  # which `means.Loader` loads later
        raise ModuleNotFoundError(name="psij")
    from .children.children import Children
    from .jobs import Jobs
    from .session import PSIJSession
except ModuleNotFoundError as error:
    raise ConfigError(
        f"{error.name} is not installed here: pip install 'orbit-psij[endpoint]'"
    ) from error


class PSIJPlugin(Plugin):
    """Submit, watch and cancel jobs through PSI/J (https://exaworks.org/psij).

    The end of a session cancels its jobs, so none ends for idleness while a job of it is not over,
    and the others after a week: a batch job must not die because its user went home.
    """

    plugin_name: ClassVar[str] = "psij"
    session_class = PSIJSession
    version: ClassVar[str] = "0.1.0"
    session_ttl: ClassVar[float] = 7 * 24 * 3600
    ui_config: ClassVar[UIConfig | dict[str, Any] | None] = UI
    jobs: Jobs
    children: Children

    def __init__(self, context: PluginContext, instance_name: str | None = None) -> None:
        """Declare the routes."""
        super().__init__(context, instance_name)
        self._is_prepared = False
        self.add_route_post("submit/{sid}", self._submit, idempotent=True)
        self.add_route_get("status/{sid}/{job_id}", self._status)
        self.add_route_get("list_jobs/{sid}", self._list_jobs)
        self.add_route_post("cancel/{sid}/{job_id}", self._cancel)
        self.add_route_get("output/{sid}/{job_id}", self._output)
        self.add_route_get("executors", self._executors)
        self.add_route_post("submit_tunneled/{sid}", self._submit_tunneled, idempotent=True)
        self.add_route_get("tunnel_status/{endpoint_name}", self._tunnel_status)
        self.add_route_get("children", self._list_children)
        self.add_route_post("stop_child/{endpoint_name}", self._stop_child)

    @classmethod
    @hookimpl
    def is_enabled(cls, host: HostInfo) -> bool:
        """Decline the bridge: jobs run where the users' accounts are."""
        return host.role is not HostRole.BRIDGE

    @hookimpl
    async def register_routes(self, context: PluginContext) -> Iterable[BaseRoute]:
        """Bring sessions back, then their jobs."""
        routes = await super().register_routes(context)
        await self.jobs.resume()
        await self.children.resume()
        return routes

    @hookimpl
    async def on_topology_change(self, topology: Topology) -> None:
        """See which children are linked; once this endpoint is, load what its first job needs."""
        await super().on_topology_change(topology)
        self.children.hear([name for name in topology if topology[name].liveness == "present"])
        if self.context.endpoint in topology and not self._is_prepared:
            self._is_prepared = True
            await self.jobs.loader.prepare()

    def busy_sessions(self) -> set[str]:
        """Return the sessions that have a job which is not over."""
        return self.jobs.busy_sids()

    async def start(self) -> None:
        """Read the jobs and the children of before."""
        self.jobs = Jobs(self.context)
        await self.jobs.open()
        self.children = Children(self.context, self.jobs, self.context.settings(Settings).children)
        await self.children.open()

    async def stop(self) -> None:
        """Leave the jobs running."""
        await super().stop()
        await self.jobs.close()

    def _create_session(self, sid: str, **settings: Any) -> PSIJSession:
        return PSIJSession(sid, self.jobs, **settings)

    @takes(Submission)
    async def _submit(self, request: Request) -> Submitted:
        """Start a job: ``{"job_spec": {...}, "executor": "local"}``."""
        session = await self.session(request)
        offer = (await self.jobs.loader.get()).offer
        wanted = read_submission(await json_body(request), offer)
        key = request.headers.get("Idempotency-Key")
        owned = None if key is None else f"{principal_of(request).owner_key}\n{key}"
        submitted: Submitted = await session.submit(wanted, owned)
        return submitted

    async def _status(self, request: Request) -> JobStatus:
        """Return a job's state and its output from ``stdout_offset`` and ``stderr_offset`` on."""
        session = await self.session(request)
        status: JobStatus = await session.status(
            request.path_params["job_id"],
            integer_parameter(request, "stdout_offset"),
            integer_parameter(request, "stderr_offset"),
        )
        return status

    async def _list_jobs(self, request: Request) -> dict[str, Any]:
        """List the session's jobs."""
        session = await self.session(request)
        return {"jobs": session.list_jobs()}

    async def _cancel(self, request: Request) -> Cancelled:
        """End a job with all its processes, and answer when it is gone."""
        session = await self.session(request)
        cancelled: Cancelled = await session.cancel(request.path_params["job_id"])
        return cancelled

    async def _output(self, request: Request) -> StreamingResponse:
        """Stream ``stream=stdout|stderr`` from ``offset`` on, with ``follow=true`` to the end.

        ``index`` picks an element of a job array.
        """
        session = await self.session(request)
        parts = session.output(
            request.path_params["job_id"],
            _stream_parameter(request),
            integer_parameter(request, "offset"),
            follow=flag_parameter(request, "follow"),
            index=integer_parameter(request, "index") if "index" in request.query_params else None,
        )
        return StreamingResponse(parts, media_type="text/plain")

    async def _executors(self, request: Request) -> dict[str, Any]:
        """List the executors and launchers that jobs may name, and why not other executors."""
        offer = (await self.jobs.loader.get()).offer
        return {
            "executors": [{"name": name} for name in offer.names],
            "missing": [{"name": name, "reason": why} for name, why in offer.missing.items()],
            "launchers": list(LAUNCHERS),
        }

    @takes(Submission)
    async def _submit_tunneled(self, request: Request) -> ChildSubmitted:
        """Start a child endpoint: ``{"job_spec": {...}, "executor": "local", "tunnel": "none"}``.

        The arguments of the job name it: ``["--name", "gpu-a"]``.
        """
        session = await self.session(request)
        body = await json_body(request)
        offer = (await self.jobs.loader.get()).offer
        wanted = read_child(body, offer, self.context.endpoint)
        return await self.children.submit(session, wanted)

    async def _tunnel_status(self, request: Request) -> TunnelStatus:
        """Tell how a child endpoint's tunnel is."""
        return self.children.status(request.path_params["endpoint_name"])

    async def _list_children(self, request: Request) -> dict[str, Any]:
        """List the caller's child endpoints."""
        return {"children": self.children.list(principal_of(request))}

    async def _stop_child(self, request: Request) -> TunnelStatus:
        """End a child endpoint with its job."""
        name = request.path_params["endpoint_name"]
        return await self.children.stop(name, principal_of(request))


def _stream_parameter(request: Request) -> StreamName:
    match request.query_params.get("stream", "stdout"):
        case "stdout":
            return "stdout"
        case "stderr":
            return "stderr"
        case other:
            raise BadRequest(f"the parameter 'stream' must be stdout or stderr, not {other!r}")
