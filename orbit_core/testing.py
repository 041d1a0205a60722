"""Run ORBIT inside a test: one plugin alone, or a bridge with endpoints and clients, all real."""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import attrs
import httpx
from starlette.types import Receive, Scope, Send

from ._host import open_host
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
        """Return a client whose requests speak for ``principal``; paths begin with ``/{instance}``."""

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
    settings: Mapping[str, Any] | None = None,
) -> AsyncIterator[PluginUnderTest]:
    """Serve one plugin without bridge or network, keeping its state in ``state_dir``.

    ``target`` is what its entry point says, such as ``orbit_sysinfo.plugin:SysInfoPlugin``.
    Opening the same directory again is a restart.
    """
    name = instance or "plugin"
    entry = EntryPoint(name, target, "orbit.plugins")
    host = HostInfo(role, python_version=sys.version.split()[0])
    recorder = Recorder()
    async with open_host("test", host, state_dir) as found:
        found.hooks.add("recorder", recorder)
        await found.load([name], settings={name: dict(settings or {})}, hub=None, available={name: entry})
        served = found.plugins.served.get(name)
        yield PluginUnderTest(
            served.plugin if served else None, found.plugins.statuses[0], recorder.heard, found.site()
        )
