"""Serve workflows on an endpoint."""

from collections.abc import Iterable
from typing import Any, ClassVar
from weakref import WeakSet

import attrs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from orbit_core import HostInfo, HostRole, Plugin, hookimpl
from orbit_core.context import PluginContext
from orbit_core.errors import BadRequest, ConfigError, InvalidBody
from orbit_core.models import Topology, UIConfig
from orbit_core.values import as_model
from orbit_core.web import json_body, model_body, takes

from .configs import ConfigSummary
from .gantt import to_svg
from .models import config_to_dict
from .report import to_csv
from .states import WorkflowState

try:
    from .runs import Runs
    from .session import XGFabricSession
except ModuleNotFoundError as error:
    raise ConfigError(
        f"{error.name} is not installed here: pip install 'orbit-xgfabric[endpoint]'"
    ) from error


@attrs.frozen
class WorkdirBody:
    """Ask to work in another directory."""

    path: str


@attrs.frozen
class SessionSettings:
    """Hold what a session may be opened with."""

    workdir: str | None = None
    endpoint_name: str | None = None
    bridge_url: str | None = None
    bridge_cert: str | None = None


@attrs.frozen
class StartBody:
    """Ask for a run; ``config_name`` is what older programs call ``workflow``.

    Either is the name of a configuration, or one.
    """

    workflow: str | dict[str, Any] | None = None
    resource: str | dict[str, Any] = "default"
    config_name: str | None = None


class XGFabricPlugin(Plugin):
    """Run sensor-driven simulation workflows across clusters."""

    plugin_name: ClassVar[str] = "xgfabric"
    session_class = XGFabricSession
    version: ClassVar[str] = "0.1.0"
    ui_config: ClassVar[UIConfig | dict[str, Any] | None] = {
        "icon": "wave",
        "title": "XGFabric Workflow",
        "description": "Run a sensor-driven simulation workflow across clusters.",
        "custom_template": True,
    }
    runs: Runs

    def __init__(self, context: PluginContext, instance_name: str | None = None) -> None:
        """Declare the routes."""
        super().__init__(context, instance_name)
        self._live: WeakSet[XGFabricSession] = WeakSet()
        self.add_route_get("workdir/{sid}", self._workdir)
        self.add_route_post("workdir/{sid}", self._set_workdir)
        self.add_route_get("configs/{sid}", self._configs)
        self.add_route_get("config/{sid}/{name}", self._config)
        self.add_route_post("config/{sid}", self._save_config)
        self.add_route_post("config/{sid}/{name}/delete", self._delete_config)
        self.add_route_get("status/{sid}", self._status)
        self.add_route_post("start/{sid}", self._start, idempotent=True)
        self.add_route_post("stop/{sid}", self._stop)
        self.add_route_get("runs/{sid}", self._list_runs)
        self.add_route_get("report/{sid}", self._report)

    @classmethod
    @hookimpl
    def is_enabled(cls, host: HostInfo) -> bool:
        """Decline the bridge: a run keeps its state, and its sensor data, where its user works."""
        return host.role is not HostRole.BRIDGE

    @hookimpl
    async def register_routes(self, context: PluginContext) -> Iterable[BaseRoute]:
        """Bring sessions back with their runs, and clear up after those whose sessions are gone."""
        routes = await super().register_routes(context)
        self.runs.clear_orphans()
        return routes

    @hookimpl
    async def on_topology_change(self, topology: Topology) -> None:
        """See which clusters and pilots are connected."""
        await super().on_topology_change(topology)
        self.runs.fleet.hear(topology)
        for session in list(self._live):
            session.tell_presence()

    def busy_sessions(self) -> list[str]:
        """Return the sessions in which a workflow goes on."""
        return [session.sid for session in self._live if session.is_busy]

    async def start(self) -> None:
        """Read the runs of before."""
        self.runs = Runs(self.context)
        await self.runs.journal.open()

    def _create_session(self, sid: str, **settings: Any) -> XGFabricSession:
        wanted = as_model(settings, SessionSettings, "session", strict=True)
        given = attrs.asdict(wanted)
        session = XGFabricSession(sid, **given, runs=self.runs, context=self.context)
        self._live.add(session)
        return session

    async def _workdir(self, request: Request) -> dict[str, Any]:
        """Return the session's work directory."""
        session: XGFabricSession = await self.session(request)
        return {"path": str(session.workdir), "status": "ok"}

    @takes(WorkdirBody)
    async def _set_workdir(self, request: Request) -> dict[str, Any]:
        """Work in the directory ``path`` from now on."""
        session: XGFabricSession = await self.session(request)
        wanted = await model_body(request, WorkdirBody)
        return {"path": str(await session.set_workdir(wanted.path)), "status": "ok"}

    async def _configs(self, request: Request) -> list[ConfigSummary]:
        """List the configurations in the work directory."""
        session: XGFabricSession = await self.session(request)
        return await session.list_configs()

    async def _config(self, request: Request) -> dict[str, Any]:
        """Return a configuration: ``default``, ``test``, or one of the work directory."""
        session: XGFabricSession = await self.session(request)
        return config_to_dict(await session.load_config(request.path_params["name"]))

    async def _save_config(self, request: Request) -> dict[str, Any]:
        """Write a configuration under its own name."""
        session: XGFabricSession = await self.session(request)
        return {"status": "saved", "name": await session.save_config(await json_body(request))}

    async def _delete_config(self, request: Request) -> dict[str, Any]:
        """Delete a configuration of the work directory."""
        session: XGFabricSession = await self.session(request)
        name = await session.delete_config(request.path_params["name"])
        return {"status": "deleted", "name": name}

    async def _status(self, request: Request) -> WorkflowState:
        """Return how the session's workflow is."""
        session: XGFabricSession = await self.session(request)
        return session.status()

    async def _start(self, request: Request) -> dict[str, Any]:
        """Begin a workflow: ``{"workflow": "test", "resource": "default"}``, names or objects."""
        session: XGFabricSession = await self.session(request)
        wanted = _wanted(await json_body(request))
        plan = await session.begin(
            wanted.workflow or wanted.config_name or "default", wanted.resource
        )
        return {
            "status": "started",
            "config": plan.config_name,
            "run_id": session.status().run_id,
        }

    async def _stop(self, request: Request) -> dict[str, Any]:
        """Stop the workflow, and answer when it has stopped."""
        session: XGFabricSession = await self.session(request)
        await session.stop()
        return {"status": "stopped"}

    async def _list_runs(self, request: Request) -> dict[str, Any]:
        """List the session's runs, oldest first."""
        session: XGFabricSession = await self.session(request)
        return {"runs": session.list_runs()}

    async def _report(self, request: Request) -> Any:
        """Report where a run's time went: ``run_id``, else the last; ``format`` json, csv, svg."""
        session: XGFabricSession = await self.session(request)
        report = session.report(request.query_params.get("run_id"))
        match request.query_params.get("format", "json"):
            case "json":
                return report
            case "csv":
                return Response(to_csv([report]), media_type="text/csv")
            case "svg":
                return Response(to_svg(report), media_type="image/svg+xml")
            case other:
                raise BadRequest(f"the parameter 'format' must be json, csv or svg, not {other!r}")


def _wanted(body: dict[str, Any]) -> StartBody:
    """Return what a body asks for. Raises InvalidBody."""
    found = {key: body[key] for key in ("workflow", "resource", "config_name") if key in body}
    for key, value in found.items():
        if not isinstance(value, str | dict):
            raise InvalidBody(f"body: {key} must be a configuration, or the name of one")
    return StartBody(**found)
