"""Serve the bridge's own routes: discovery, events, authentication, tokens, health, description."""

import html
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, Protocol

import anyio
import attrs
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from . import _openapi
from ._child_tokens import ChildTokens
from ._codec import to_data
from ._cookies import COOKIE
from ._description import describe_route
from ._event_stream import EventStream
from ._events import EventRing, Filter
from ._host import PluginHost
from ._http import Connection
from ._inquiry import descriptions_of
from ._metrics import BridgeCollector, render
from ._registry import Registry
from .auth import Authenticator, Tokens
from .errors import BadRequest, Forbidden, OrbitError
from .models import EndpointInfo, HostDescription, Role
from .web import Reply, error_reply, model_body, principal_of, takes

READINESS = 1.0
"""Seconds for which ``/ready``, which anybody may ask, says what it found out."""

OPEN_PATHS = frozenset({"/", "/health", "/ready", "/favicon.ico"})
"""Paths that need no token."""

Handler = Callable[[Request], Awaitable[Response]]


class Hub(Protocol):
    """Name what the routes need of the bridge."""

    host: PluginHost
    registry: Registry
    tokens: Tokens
    authenticator: Authenticator
    ring: EventRing
    collector: BridgeCollector
    listeners: dict[Connection, tuple[str, str]]
    stopped: anyio.Event

    def describe_endpoints(self) -> dict[str, EndpointInfo]:
        """Return every endpoint."""
        ...

    def describe_topology(self) -> dict[str, Any]:
        """Return the document of ``/endpoint/list``."""
        ...


@attrs.frozen
class TokenRequest:
    """Ask for a token; ``expires`` is seconds from now."""

    role: Role
    owner: str
    expires: float | None = None
    endpoint: str | None = None


class BridgeRoutes:
    """Answer for one bridge."""

    def __init__(self, hub: Hub) -> None:
        """Answer for ``hub``."""
        self._hub = hub
        self._started = time.monotonic()
        self._readiness = anyio.Lock()
        self._unready: OrbitError | None = None
        self._look_again = 0.0

    def routes(self) -> list[Route]:
        """Return the routes at the root."""
        return [
            Route("/", self.home, methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/ready", self.ready, methods=["GET"]),
            Route("/auth", self.open_cookie, methods=["POST"]),
            Route("/auth", self.who, methods=["GET"]),
            Route("/auth", self.close_cookie, methods=["DELETE"]),
            Route("/endpoint/list", self.list_endpoints, methods=["POST"]),
            Route("/endpoint/disconnect/{name}", self.disconnect, methods=["POST"]),
            *ChildTokens(self._hub.tokens).routes(),
            Route("/endpoints", self.endpoints, methods=["GET"]),
            Route("/events", self.events, methods=["GET"]),
            Route("/plugins", self.plugins, methods=["GET"]),
            Route("/tokens", self.list_tokens, methods=["GET"]),
            Route("/tokens", self.create_token, methods=["POST"]),
            Route("/tokens/{id}", self.revoke_token, methods=["DELETE"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
        ]

    def bridge_routes(self) -> list[Route]:
        """Return the routes below ``/bridge``."""
        return [Route("/terminate", self.terminate, methods=["POST"])]

    async def home(self, request: Request) -> Response:
        """Show a plain page: version, endpoints, where the documentation is."""
        endpoints = self._hub.describe_endpoints()
        if principal_of(request).owner:
            rows = "".join(
                f"<li>{html.escape(name)} ({info.liveness})</li>"
                for name, info in endpoints.items()
            )
        else:
            rows = f"<li>{len(endpoints)} connected; show a token to see which</li>"
        page = _PAGE.format(version=version("orbit-core"), rows=rows)
        return HTMLResponse(page, headers={"Content-Security-Policy": "default-src 'self'"})

    async def health(self, request: Request) -> Reply:
        """Tell that the process serves requests."""
        uptime = round(time.monotonic() - self._started, 2)
        return Reply(
            {"status": "healthy", "version": version("orbit-core"), "uptime_seconds": uptime}
        )

    async def ready(self, request: Request) -> Reply:
        """Tell whether the bridge can do its work: its state can be written."""
        async with self._readiness:
            await self._look()
        if self._unready is not None:
            return error_reply(self._unready)
        return Reply({"status": "ready"})

    async def _look(self) -> None:
        if time.monotonic() >= self._look_again:
            self._unready = await self._fault()
            self._look_again = time.monotonic() + READINESS

    async def _fault(self) -> OrbitError | None:
        try:
            await self._hub.host.store.space("ready").put("ready", time.time())
        except OrbitError as error:
            return error
        return None

    async def open_cookie(self, request: Request) -> Reply:
        """Exchange a bearer token for a random, expiring cookie."""
        authenticator = self._hub.authenticator
        reply = Reply({"ok": True})
        if authenticator.enabled:
            address = request.client.host if request.client else ""
            token = authenticator.token(request.scope["headers"], address, by_cookie=False)
            reply.set_cookie(
                COOKIE,
                authenticator.cookies.open(token.id),
                max_age=int(authenticator.cookies.ttl),
                httponly=True,
                samesite="strict",
                secure=request.url.scheme == "https",
            )
        return reply

    async def close_cookie(self, request: Request) -> Reply:
        """Forget the cookie and cut the listeners that it let in: log out."""
        cookies = self._hub.authenticator.cookies
        cookies.close(cookies.shown(request.scope["headers"]))
        reply = Reply({"ok": True})
        reply.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return reply

    async def who(self, request: Request) -> Reply:
        """Tell the caller who it is."""
        principal = principal_of(request)
        return Reply({"owner": principal.owner_key, "role": principal.role})

    async def list_endpoints(self, request: Request) -> Reply:
        """List the endpoints with their plugins and portal pages."""
        document = self._hub.describe_topology()
        described = await self._descriptions()
        for name, entry in document["endpoints"].items():
            for instance, plugin in described.get(name, HostDescription()).plugins.items():
                if instance in entry["plugins"]:
                    entry["plugins"][instance]["ui_config"] = plugin.ui_config
        return Reply({"data": document})

    async def endpoints(self, request: Request) -> Reply:
        """List the endpoints in short."""
        rows = [
            {
                "name": name,
                "role": info.role,
                "plugins": list(info.plugins),
                "connected": info.liveness == "present",
                "liveness": info.liveness,
                "plugin_count": len(info.plugins),
            }
            for name, info in self._hub.describe_endpoints().items()
        ]
        return Reply({"endpoints": rows, "total": len(rows)})

    async def events(self, request: Request) -> Response:
        """Stream the topology and the caller's notifications as server-sent events."""
        principal = principal_of(request)
        query = request.query_params
        wanted = Filter(principal, query.get("endpoint"), query.get("plugin"), query.get("topic"))
        last = request.headers.get("last-event-id") or query.get("last_event_id")
        keys = (principal.token_id, self._hub.authenticator.cookie(request.scope["headers"]))
        return EventStream(self._hub.listeners, keys, self._hub.ring.listen(wanted, last))

    async def disconnect(self, request: Request) -> Reply:
        """Tell an endpoint to leave."""
        _require_admin(request)
        name = request.path_params["name"]
        if name == self._hub.host.name:
            raise BadRequest("the bridge cannot be disconnected from itself: use /bridge/terminate")
        await self._hub.registry.shut_down(name, f"disconnected by {principal_of(request).owner}")
        return Reply({"status": "shutdown", "endpoint": name})

    async def terminate(self, request: Request) -> Reply:
        """Stop the bridge."""
        _require_admin(request)
        self._hub.stopped.set()
        return Reply({"status": "terminating", "message": "the bridge stops now"})

    async def plugins(self, request: Request) -> Reply:
        """Tell which plugins the bridge hosts, and why others are not served."""
        return Reply(self._hub.host.description())

    async def list_tokens(self, request: Request) -> Reply:
        """List the tokens, without their texts."""
        _require_admin(request)
        return Reply({"tokens": to_data(self._hub.tokens.list())})

    @takes(TokenRequest)
    async def create_token(self, request: Request) -> Reply:
        """Make a token; its text is in the answer and nowhere else."""
        _require_admin(request)
        wanted = await model_body(request, TokenRequest)
        token, text = await self._hub.tokens.create(
            wanted.role, wanted.owner, expires=wanted.expires, endpoint=wanted.endpoint
        )
        return Reply({**to_data(token), "token": text})

    async def revoke_token(self, request: Request) -> Reply:
        """Forget a token and cut what it opened."""
        _require_admin(request)
        await self._hub.tokens.revoke(request.path_params["id"])
        return Reply({"ok": True})

    async def metrics(self, request: Request) -> Response:
        """Give figures to Prometheus."""
        return Response(render(self._hub.collector), media_type=CONTENT_TYPE_LATEST)

    async def openapi(self, request: Request) -> Reply:
        """Describe every route, the plugins' included."""
        own = [describe_route(route) for route in self.routes()]
        own += [describe_route(route, "/bridge") for route in self.bridge_routes()]
        return Reply(_openapi.document(own, await self._descriptions(), OPEN_PATHS))

    async def _descriptions(self) -> dict[str, HostDescription]:
        """Return what every endpoint says of its plugins."""
        own = {self._hub.host.name: self._hub.host.description()}
        return own | await descriptions_of(self._hub.registry.members)


def _require_admin(request: Request) -> None:
    if principal_of(request).role is not Role.ADMIN:
        raise Forbidden("this needs an administrator's token")


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>ORBIT</title></head>
<body><h1>ORBIT bridge {version}</h1>
<h2>Endpoints</h2><ul>{rows}</ul>
<p>The HTTP interface is described at <a href="/openapi.json">/openapi.json</a>, to whom shows a
token: <code>curl -H "Authorization: Bearer TOKEN"</code>;
the documentation is in the folder <code>docs</code> of the source.</p>
</body></html>
"""
