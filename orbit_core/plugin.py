"""Offer `Plugin`, a base class over the hooks: standard routes, sessions, notifications."""

import inspect
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import anyio
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from ._codec import to_data
from ._hooks import HOOKS
from ._idempotency import Idempotency
from .context import PluginContext
from .errors import InvalidBody, NoSessionClass, StateUnavailable, UnknownRoute
from .hookspecs import PROJECT, hookimpl
from .models import HostInfo, HostRole, SessionReply, SessionRequest, Topology, UIConfig, check_name
from .plugins import installed
from .sessions import SWEEP_INTERVAL, PluginSession, Sessions
from .web import Reply, json_body, principal_of, takes

logger = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Any]]


class _InstalledClient:
    """Find a plugin's client by its entry point: an endpoint serves the plugin without."""

    def __get__(self, plugin: object, kind: type["Plugin"]) -> Any:
        find = import_module(".plugin_client", __package__).client_class
        return find(kind.plugin_name) if hasattr(kind, "plugin_name") else None


class Plugin:
    """Serve one plugin instance under ``/{instance_name}``.

    A subclass sets ``plugin_name`` and ``session_class``, adds its routes in ``__init__`` with
    `add_route_get`, `add_route_post` and `add_route_put`, and reaches a caller's session with
    `session`. The hooks that it overrides need no `hookimpl` mark.
    """

    plugin_name: ClassVar[str]
    session_class: ClassVar[type[PluginSession] | None] = None
    client_class: ClassVar[Any] = _InstalledClient()
    version: ClassVar[str] = "0.0.1"
    session_ttl: ClassVar[float] = 3600
    ui_config: ClassVar[UIConfig | dict[str, Any] | None] = None
    ui_module: ClassVar[Path | None] = None

    def __init_subclass__(cls) -> None:
        """Mark overridden hooks, which would else be lost without a word."""
        super().__init_subclass__()
        for name in HOOKS:
            member = cls.__dict__.get(name)
            function = getattr(member, "__func__", member)
            if inspect.isroutine(function) and not hasattr(function, f"{PROJECT}_impl"):
                hookimpl(function)

    def __init__(self, context: PluginContext, instance_name: str | None = None) -> None:
        """Keep the context; nothing starts before `register_routes`."""
        self.context = context
        self.instance_name = check_name(instance_name or self.plugin_name, "plugin instance")
        self.uid = str(uuid.uuid4())
        self._started = time.monotonic()
        self._routes: list[BaseRoute] = []
        self.sessions = Sessions(
            self._make_session,
            context.documents.part("sessions"),
            self.session_ttl,
            on_end=partial(context.notifier.forget, self.instance_name),
            busy=self.busy_sessions,
        )
        self._idempotency = Idempotency(context.documents.part("replies"))
        self._add_standard_routes()

    @staticmethod
    def get_plugin_names() -> list[str]:
        """Return the names of the installed plugins, whether they serve here or not."""
        return sorted(installed())

    @staticmethod
    def get_plugin_class(name: str) -> Any:
        """Import an installed plugin and return its class (or module), or None if there is none."""
        entry = installed().get(name)
        return entry.load() if entry else None

    @classmethod
    @hookimpl
    def is_enabled(cls, host: HostInfo) -> bool:
        """Serve every host; a subclass that needs something particular overrides this."""
        return True

    @hookimpl
    async def register_routes(self, context: PluginContext) -> Iterable[BaseRoute]:
        """Start the plugin, bring its sessions back, and return its routes."""
        await self.start()
        context.on_stop(self.stop)
        await self.sessions.restore()
        context.background(self._sweep)
        return self._routes

    @hookimpl
    async def on_topology_change(self, topology: Topology) -> None:
        """Let sessions of endpoints that are gone run out; who overrides this calls it."""
        self.sessions.hear_topology(topology)

    def busy_sessions(self) -> Collection[str]:
        """Return the ids of sessions that work by themselves: meanwhile they count as used."""
        return ()

    async def start(self) -> None:
        """Begin work, before sessions come back and before the first request."""

    async def stop(self) -> None:
        """Let go; called once at the end, after the last request."""
        await self.sessions.suspend()

    async def health(self) -> str:
        """Return ``healthy``, or one line that says what is wrong."""
        return "healthy"

    @property
    def namespace(self) -> str:
        """Return the path under which this instance is mounted on its endpoint."""
        return f"/{self.instance_name}"

    @property
    def role(self) -> HostRole:
        """Return the host's role."""
        return self.context.host.role

    @property
    def is_bridge(self) -> bool:
        """Tell whether this host is the bridge."""
        return self.role is HostRole.BRIDGE

    @property
    def is_login_node(self) -> bool:
        """Tell whether there is a scheduler here and no allocation."""
        return self.role is HostRole.LOGIN

    @property
    def is_compute_node(self) -> bool:
        """Tell whether this process runs inside a batch job's allocation."""
        return self.role is HostRole.COMPUTE

    @property
    def is_standalone(self) -> bool:
        """Tell whether there is no scheduler here."""
        return self.role is HostRole.STANDALONE

    def add_route_get(self, path: str, handler: Handler) -> None:
        """Serve GET (and HEAD) ``/{instance}/{path}``; ``{x}`` matches one segment.

        ``handler(request)`` returns JSON data, attrs values, or a Starlette response.
        """
        self._add_route(path, handler, "GET")

    def add_route_post(self, path: str, handler: Handler, *, idempotent: bool = False) -> None:
        """Serve POST ``/{instance}/{path}``; with ``idempotent``, honour ``Idempotency-Key``.

        An idempotent handler answers with JSON, not with a stream.
        """
        self._add_route(path, handler, "POST", idempotent=idempotent)

    def add_route_put(self, path: str, handler: Handler) -> None:
        """Serve PUT ``/{instance}/{path}``; ``{x:path}`` matches any number of segments."""
        self._add_route(path, handler, "PUT")

    async def session(self, request: Request) -> Any:
        """Return the caller's session that ``{sid}`` names, and note the access.

        Raises UnknownSession, SessionExpired, Forbidden.
        """
        return await self.sessions.get(principal_of(request), request.path_params["sid"])

    async def send_notification(self, topic: str, data: Any) -> None:
        """Notify everybody."""
        self._dispatch_notify(topic, data)

    def _dispatch_notify(self, topic: str, data: Any) -> None:
        """Notify everybody, from any thread: a session does so through its ``_plugin``."""
        self.context.notify(topic, data)

    def _make_session(self, sid: str, settings: dict[str, Any], owner: str | None) -> PluginSession:
        if "self" in settings:
            raise InvalidBody("this plugin's sessions do not take that: a setting named 'self'")
        session = self._create_session(sid, **settings)
        session.owner = owner
        session._plugin = self
        session.notify = partial(self.context.notify, session=sid, owner=owner)
        return session

    def _create_session(self, sid: str, **settings: Any) -> PluginSession:
        """Build a session; a subclass overrides this to hand it what all sessions share."""
        if self.session_class is None:
            raise NoSessionClass(f"plugin {self.instance_name} has no sessions")
        try:
            inspect.signature(self.session_class).bind(sid, **settings)
        except TypeError as error:
            raise InvalidBody(f"this plugin's sessions do not take that: {error}") from None
        return self.session_class(sid, **settings)

    def _add_route(
        self, path: str, handler: Handler, method: str, *, idempotent: bool = False
    ) -> None:
        async def respond(request: Request) -> Response:
            result = await handler(request)
            return result if isinstance(result, Response) else Reply(result)

        async def respond_once(request: Request) -> Response:
            return await self._idempotency.answer(request, respond)

        endpoint = wraps(handler)(respond_once if idempotent else respond)
        self._routes.append(Route("/" + path.lstrip("/"), endpoint, methods=[method]))

    def _add_standard_routes(self) -> None:
        self.add_route_post("register_session", self._register_session, idempotent=True)
        self.add_route_post("unregister_session/{sid}", self._unregister_session)
        self.add_route_get("version", self._version)
        self.add_route_get("list_sessions", self._list_sessions)
        self.add_route_get("health", self._health)
        self.add_route_get("ui_config", self._ui_config)
        self.add_route_get("ui_module", self._ui_module)

    @takes(SessionRequest)
    async def _register_session(self, request: Request) -> SessionReply:
        """Open a session, or reattach to the one that ``sid`` names."""
        session = await self.sessions.register(principal_of(request), await json_body(request))
        return SessionReply(session.sid)

    async def _unregister_session(self, request: Request) -> dict[str, Any]:
        """Close a session and everything that it holds."""
        await self.sessions.unregister(principal_of(request), request.path_params["sid"])
        return {"ok": True}

    async def _version(self, request: Request) -> dict[str, Any]:
        """Return the plugin's version."""
        return {"version": self.version}

    async def _list_sessions(self, request: Request) -> dict[str, Any]:
        """List the caller's sessions."""
        return {"sessions": self.sessions.visible_to(principal_of(request))}

    async def _health(self, request: Request) -> dict[str, Any]:
        """Tell how the plugin is."""
        return {
            "status": await self.health(),
            "plugin": self.instance_name,
            "version": self.version,
            "uptime_seconds": round(time.monotonic() - self._started, 2),
            "active_sessions": len(self.sessions),
        }

    async def _ui_config(self, request: Request) -> dict[str, Any]:
        """Describe the plugin's portal page."""
        return {
            "plugin_name": self.plugin_name,
            "instance_name": self.instance_name,
            "version": self.version,
            "ui": to_data(self.ui_config or UIConfig(title=self.plugin_name)),
        }

    async def _ui_module(self, request: Request) -> Response:
        """Return the JavaScript of the plugin's own portal page."""
        if self.ui_module is None:
            raise UnknownRoute(f"plugin {self.instance_name} has no portal module")
        return FileResponse(self.ui_module, media_type="text/javascript")

    async def _sweep(self) -> None:
        while True:
            await anyio.sleep(SWEEP_INTERVAL)
            try:
                await self.sessions.sweep()
                await self._idempotency.sweep()
            except StateUnavailable as error:
                logger.warning("plugin %s sweeps later: %s", self.instance_name, error)
