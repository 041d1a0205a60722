"""Be the public hub: let endpoints in, relay requests to them, fan notifications out."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from ._address import leave_traces, public_url
from ._bridge_routes import OPEN_PATHS, BridgeRoutes
from ._codec import to_data
from ._events import EventRing
from ._frames import Kind
from ._host import PluginHost, open_host
from ._http import Connection
from ._hub import Hub, expire_calls
from ._link import Link
from ._metrics import BridgeCollector
from ._pace import Pace
from ._pipe import connect
from ._proxy import HostedCalls, Proxy
from ._register import Registrar
from ._registry import Registry
from ._server import check_exposure, serve
from ._tasks import LightTasks, open_tasks
from .auth import Authenticator, Tokens, open_first_token
from .config import BridgeConfig, setting, state_home
from .errors import BadRequest, ConnectionLost, Forbidden, OrbitError, TooManyRequests
from .hookspecs import hookimpl
from .models import RESERVED_NAMES, EndpointInfo, HostInfo, HostRole, Notification, Principal, Role
from .web import Site, error_reply

logger = logging.getLogger(__name__)

SWEEP = 1.0
"""Seconds between looks for expired tokens and cookies."""


class FanOut:
    """Copy every notification to the listeners on ``/events``."""

    def __init__(self, ring: EventRing) -> None:
        """Copy to ``ring``."""
        self._ring = ring

    @hookimpl
    def notify(self, notification: Notification) -> None:
        """Copy one."""
        self._ring.append(notification)


class Bridge:
    """Be an ASGI application: WebSocket ``/register``, the bridge's own routes, and the relay."""

    def __init__(
        self, config: BridgeConfig, host: PluginHost, registry: Registry, tokens: Tokens
    ) -> None:
        """Put the parts together; `open_bridge` makes them."""
        self.config = config
        self.url = ""
        self.host = host
        self.registry = registry
        self.tokens = tokens
        self.stopped = anyio.Event()
        self.authenticator = Authenticator(
            tokens, enabled=not config.no_auth, cookie_ttl=config.session_cookie_ttl
        )
        self.ring = EventRing(
            config.event_ring_bytes, config.event_ring_seconds, self.describe_topology
        )
        self.proxy = Proxy(registry, max_body=config.max_body, timeout=config.call_timeout)
        self.collector = BridgeCollector(registry, self.proxy, self.ring)
        self.listeners: dict[Connection, tuple[str, str]] = {}
        self._pace = Pace(config.rate_limit)
        self._registrar = Registrar(registry, self.authenticator)
        self._site: Site | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or one endpoint's link."""
        if scope["type"] == "websocket":
            await self._registrar(scope, receive, send)
            return
        try:
            scope["orbit.principal"] = self._principal(scope)
        except OrbitError as error:
            await error_reply(error, {"Connection": "close"})(scope, receive, send)
            return
        await self.dispatch(scope, receive, send)

    async def dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request whose principal is known."""
        caller = scope["orbit.principal"].owner_key or f"address {_address(scope)}"
        if wait := self._pace.take(caller):
            try:
                await self._pace.wait(caller, wait)
            except TooManyRequests as refusal:
                await error_reply(refusal)(scope, receive, send)
                return
        if not scope["path"].startswith("/"):
            error = BadRequest(f"{scope['path']!r} is no path: it must begin with a slash")
            await error_reply(error)(scope, receive, send)
        elif scope["path"].split("/", 2)[1] in RESERVED_NAMES or scope["path"] == "/":
            assert self._site is not None
            await self._site(scope, receive, send)
        else:
            await self.proxy(scope, receive, send)

    def app_for(self, principal: Principal) -> ASGIApp:
        """Return the application for an endpoint's own calls, which speak for ``principal``."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["orbit.principal"] = principal
            await self.dispatch(scope, receive, send)

        return app

    def open_site(self) -> None:
        """Begin to serve the bridge's routes and the plugins hosted here."""
        routes = BridgeRoutes(self)
        own: list[BaseRoute] = [*routes.routes()]
        hosted = Mount(
            "/bridge",
            routes=[*routes.bridge_routes(), *self.host.routes()],
            middleware=[Middleware(HostedCalls, self.proxy.callers)],
        )
        self._site = Site.of([*own, hosted], self._absent)

    def _absent(self, path: str) -> str:
        """Say what is not served at a path of the bridge's own."""
        if f"{path}/".startswith("/bridge/"):
            return self.host.absent(path.removeprefix("/bridge"))
        return f"nothing is served at {path}: GET /openapi.json lists what is"

    def describe_endpoints(self) -> dict[str, EndpointInfo]:
        """Return every endpoint, the bridge first if it hosts plugins."""
        found: dict[str, EndpointInfo] = {}
        if self.host.plugins.served:
            found[self.host.name] = EndpointInfo("bridge", plugins=self.host.short_descriptions())
        return {**found, **self.registry.topology().endpoints}

    def describe_topology(self) -> dict[str, Any]:
        """Return the document that ``/endpoint/list`` and topology events carry."""
        return {
            "bridge": {"url": self.url},
            "endpoints": {
                name: topology_entry(info) for name, info in self.describe_endpoints().items()
            },
        }

    def cut_token(self, token_id: str) -> None:
        """Cut the links, calls and listeners that a token opened."""
        for member in self.registry.members:
            if member.applicant.token_id == token_id:
                self.registry.remove(
                    member.name, Forbidden(f"the token of endpoint {member.name} was revoked")
                )
        for connection, caller in list(self.proxy.callers.items()):
            if caller == token_id:
                connection.abort()
        self.cut_listeners(token_id)

    def cut_listeners(self, key: str) -> None:
        """Cut the listeners that a token, or a cookie, let in."""
        for connection, keys in list(self.listeners.items()):
            if key in keys:
                connection.abort()

    def _principal(self, scope: Scope) -> Principal:
        if not self.authenticator.enabled:
            _check_page(scope, self.config)
        try:
            principal = self.authenticator.principal(scope["headers"], _address(scope))
        except OrbitError:
            if scope["path"] in OPEN_PATHS:
                return _NOBODY
            raise
        if principal.role is Role.ENDPOINT and scope["path"] not in OPEN_PATHS:
            raise Forbidden("an endpoint's token only lets an endpoint in: use a client's")
        return principal


_NOBODY = Principal("", Role.CLIENT)


def topology_entry(info: EndpointInfo) -> dict[str, Any]:
    """Return one endpoint in the documented shape."""
    return {
        "endpoint": {"role": info.role, "liveness": info.liveness},
        "plugins": to_data(info.plugins),
    }


def _address(scope: Scope) -> str:
    return scope["client"][0] if scope["client"] else ""


def _check_page(scope: Scope, config: BridgeConfig) -> None:
    """Refuse other sites' names and pages at a bridge without authentication, which lets all in."""
    headers = dict(scope["headers"])
    name, origin = (headers.get(key, b"").decode("latin-1") for key in (b"host", b"origin"))
    host = name.rsplit(":", 1)[0]
    if host not in ("localhost", "127.0.0.1", "[::1]", config.host, ""):
        raise Forbidden(
            f"this bridge is not called {host!r}: "
            "without authentication it answers only as localhost"
        )
    known = ("", f"http://{name}", f"https://{name}", *config.allow_origins)
    if origin not in known and "*" not in config.allow_origins:
        raise Forbidden(
            f"this bridge takes no calls of pages at {origin!r}: "
            "without authentication allow_origins must name them"
        )


@asynccontextmanager
async def open_bridge(
    config: BridgeConfig,
    settings: Mapping[str, dict[str, Any]] | None = None,
    token: str | None = None,
) -> AsyncIterator[Bridge]:
    """Run a bridge while the context is open.

    ``settings`` holds the hosted plugins' sections; ``token``, or else ``ORBIT_TOKEN``, is accepted
    as an administrator's. Raises ConfigError, StateInUse.
    """
    check_exposure(config)
    state_dir = config.state_dir or state_home() / "bridge"
    host_info = HostInfo(HostRole.BRIDGE)
    async with (
        open_host("bridge", host_info, state_dir) as host,
        LightTasks() as own_calls,
        open_tasks() as carriers,
    ):
        tokens = Tokens(host.store.space("tokens"))
        await tokens.load()
        calls = LightTasks()
        registry = Registry(host.hooks.notify, config.grace, calls)
        bridge = Bridge(config, host, registry, tokens)
        registry.serve_with(bridge.app_for)
        await open_first_token(tokens, state_dir, token or setting("ORBIT_TOKEN"))
        tokens.on_end(bridge.cut_token)
        bridge.authenticator.cookies.on_end(bridge.cut_listeners)
        registry.on_change(host.hooks.topology_changed)
        registry.on_change(lambda topology: bridge.ring.topology_changed())
        host.hooks.add("(fan-out)", FanOut(bridge.ring))
        app = bridge.app_for(Principal(host.name, Role.ADMIN))
        near, far = (Link(app, own_calls, _hear_nothing, first_id=number) for number in (1, 2))
        async with (
            Hub(near) as hub,
            host.running(),
            calls,
            open_tasks() as group,
        ):
            try:
                await host.load(config.plugins, settings=settings or {}, hub=hub)
                bridge.open_site()
                connect(near, far, carriers)
                carriers.start_soon(expire_calls, near)
                group.start_soon(registry.run)
                group.start_soon(_sweep, bridge.authenticator)
                async with serve(_with_cors(bridge, config), config) as url:
                    bridge.url = await anyio.to_thread.run_sync(public_url, url, config)
                    await anyio.to_thread.run_sync(leave_traces, state_dir, bridge.url, config.cert)
                    yield bridge
            except BaseException:  # what carries the plugins' own calls may be cancelled as well
                near.end(ConnectionLost("the bridge stops"))
                raise
            finally:
                registry.end(ConnectionLost("the bridge stops"))


async def _sweep(authenticator: Authenticator) -> None:
    while True:
        await anyio.sleep(SWEEP)
        authenticator.cookies.sweep()
        await authenticator.tokens.sweep()


def _hear_nothing(kind: Kind, payload: memoryview) -> None:
    """Take nothing but calls over the link of the plugins that the bridge hosts."""


def _with_cors(app: ASGIApp, config: BridgeConfig) -> ASGIApp:
    if not config.allow_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=config.allow_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        allow_credentials=True,
    )
