"""Run ORBIT inside a test: one plugin alone, or a bridge with endpoints and clients, all real."""

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import anyio
import attrs
import httpx
from starlette.types import Receive, Scope, Send

from ._host import open_host
from .bridge import Bridge, open_bridge
from .client import AsyncBridgeClient
from .config import BridgeConfig, EndpointConfig
from .endpoint import Endpoint, open_endpoint
from .hookspecs import hookimpl
from .models import HostInfo, HostRole, Notification, PluginStatus, Principal, Role
from .web import Site

ALICE = Principal("alice", Role.CLIENT)
BOB = Principal("bob", Role.CLIENT)
ADMIN = Principal("root", Role.ADMIN)


@attrs.define(eq=False)
class Recorder:
    """Keep the notifications that a host publishes."""

    heard: list[Notification] = attrs.field(factory=list)

    @hookimpl
    def notify(self, notification: Notification) -> None:
        """Keep one."""
        self.heard.append(notification)


@attrs.define(eq=False)
class PluginUnderTest:
    """Be one served plugin: ask it over HTTP as somebody, and see what it published.

    ``status`` tells whether it is served at all, and why not.
    """

    plugin: Any
    status: PluginStatus
    notifications: list[Notification]
    _site: Site

    def http(self, principal: Principal = ALICE) -> httpx.AsyncClient:
        """Return a client that speaks for ``principal``; paths begin with ``/{instance}``."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await self._site({**scope, "orbit.principal": principal}, receive, send)

        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://plugin")


@asynccontextmanager
async def open_plugin(
    target: str,
    state_dir: Path,
    *,
    instance: str | None = None,
    role: HostRole = HostRole.STANDALONE,
    scheduler: str = "none",
    settings: Mapping[str, Any] | None = None,
) -> AsyncIterator[PluginUnderTest]:
    """Serve one plugin without bridge or network, keeping its state in ``state_dir``.

    ``role`` and ``scheduler`` are what the plugin is told of its host. ``target`` is what its entry
    point says, such as ``orbit_sysinfo.plugin:SysInfoPlugin``.
    Opening the same directory again is a restart.
    """
    name = instance or "plugin"
    entry = EntryPoint(name, target, "orbit.plugins")
    host = HostInfo(role, scheduler, python_version=sys.version.split()[0])
    recorder = Recorder()
    async with open_host("test", host, state_dir) as found, found.running():
        found.hooks.add("(recorder)", recorder)
        await found.load(
            [name], settings={name: dict(settings or {})}, hub=None, available={name: entry}
        )
        served = found.plugins.served.get(name)
        yield PluginUnderTest(
            served.plugin if served else None,
            found.plugins.statuses[0],
            recorder.heard,
            found.site(),
        )


LINK_PATIENCE = 10.0
"""Seconds in which an endpoint of a deployment must be linked."""


@attrs.define(eq=False)
class Deployment:
    """Be one running bridge with its endpoints, on real sockets of this host.

    `endpoints` are the ones that run now; their plugins are at ``endpoint.host.plugins.served``.
    """

    bridge: Bridge
    endpoints: dict[str, Endpoint]
    _state_dir: Path
    _tokens: dict[Principal, str] = attrs.field(factory=dict)

    @property
    def url(self) -> str:
        """Return the bridge's URL."""
        return self.bridge.url

    async def token(self, principal: Principal = ALICE) -> str:
        """Return a token that speaks for ``principal``, made when first asked for."""
        if principal not in self._tokens:
            _, self._tokens[principal] = await self.bridge.tokens.create(
                principal.role, principal.owner, endpoint=principal.endpoint
            )
        return self._tokens[principal]

    @asynccontextmanager
    async def client(self, principal: Principal = ALICE) -> AsyncIterator[AsyncBridgeClient]:
        """Open a client that speaks for ``principal``."""
        token = await self.token(principal)
        async with AsyncBridgeClient(self.url, self.bridge.config.cert, token) as client:
            yield client

    @asynccontextmanager
    async def endpoint(
        self,
        name: str,
        targets: Sequence[str] = (),
        *,
        owner: str = ALICE.owner,
        shared: bool = False,
        scheduler: str = "none",
        settings: Mapping[str, dict[str, Any]] | None = None,
    ) -> AsyncIterator[Endpoint]:
        """Run one more endpoint of ``owner`` while the context is open; the same name is a restart.

        A ``shared`` one takes the calls of other owners, too.
        ``targets`` are as for `open_deployment`; ``settings`` has a section per plugin instance.
        """
        token = await self.token(Principal(owner, Role.ENDPOINT, endpoint=name))
        available = _entry_points(targets)
        config = EndpointConfig(
            name=name,
            url=self.url,
            cert=self.bridge.config.cert,
            plugins=list(available),
            shared=shared,
            state_dir=self._state_dir / "endpoints" / name,
        )
        role = HostRole.STANDALONE if scheduler == "none" else HostRole.LOGIN
        host = HostInfo(role, scheduler, python_version=sys.version.split()[0])
        async with open_endpoint(
            config, host, settings=settings, token=token, available=available
        ) as endpoint:
            with anyio.fail_after(LINK_PATIENCE):
                await endpoint.linked.wait()
            self.endpoints[name] = endpoint
            try:
                yield endpoint
            finally:
                del self.endpoints[name]


@asynccontextmanager
async def open_deployment(
    state_dir: Path,
    *,
    plugins: Mapping[str, Sequence[str]] | None = None,
    config: BridgeConfig | None = None,
    shared: bool = False,
) -> AsyncIterator[Deployment]:
    """Run a bridge and endpoints while the context is open, keeping their state in ``state_dir``.

    ``plugins`` says which plugins each endpoint serves, by what their entry points say, such as
    ``{"node7": ["orbit_sysinfo.plugin:SysInfoPlugin"]}``. A plugin is served under its class's
    ``plugin_name``, else under its module's last name; ``name=target`` serves it as ``name``.
    ``config`` changes the bridge's settings; it listens on a free port of 127.0.0.1 otherwise.
    The endpoints are Alice's; if they are ``shared``, others may call them, too.
    """
    wanted = config or BridgeConfig(port=0, plugins=[])
    wanted = attrs.evolve(wanted, state_dir=wanted.state_dir or state_dir / "bridge")
    async with open_bridge(wanted) as bridge, AsyncExitStack() as stack:
        deployment = Deployment(bridge, {}, state_dir)
        for name, targets in (plugins or {}).items():
            await stack.enter_async_context(deployment.endpoint(name, targets, shared=shared))
        yield deployment


def _entry_points(targets: Sequence[str]) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for target in targets:
        name, _, place = target.rpartition("=")
        entry = EntryPoint(name, place, "orbit.plugins")
        if not name:
            name = getattr(entry.load(), "plugin_name", "") or entry.module.rpartition(".")[2]
            entry = EntryPoint(name, place, "orbit.plugins")
        found[name] = entry
    return found
