"""Offer `SysInfoPlugin`, which serves what this host is and does."""

import os.path
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import StreamingResponse

from orbit_core.context import PluginContext
from orbit_core.errors import InvalidName
from orbit_core.models import HostInfo, UIConfig, UIMonitor
from orbit_core.plugin import Plugin
from orbit_core.sessions import PluginSession
from orbit_core.web import Reply

from .models import Metrics
from .provider import SysInfoProvider
from .session import SysInfoSession


class SysInfoPlugin(Plugin):
    """Serve the home directory, the host's role and its metrics."""

    plugin_name = "sysinfo"
    session_class = SysInfoSession
    version = "0.1.0"
    ui_config = UIConfig(
        title="System Info",
        icon="monitor",
        description="Role, load, disks, network and GPUs of this host.",
        refresh_button=True,
        monitors=[
            UIMonitor(
                id="metrics",
                title="Metrics",
                type="metrics",
                css_class="sysinfo-content",
                auto_load="metrics/{sid}",
            )
        ],
    )

    def __init__(self, context: PluginContext, instance_name: str | None = None) -> None:
        """Add the routes; the stream's comes before that of sessions, which it would match."""
        super().__init__(context, instance_name)
        self.provider = SysInfoProvider()
        self.add_route_get("homedir", self._homedir)
        self.add_route_get("host_role", self._host_role)
        self.add_route_get("metrics/stream", self._stream)
        self.add_route_get("metrics/{sid}", self._metrics)

    async def start(self) -> None:
        """Look for the hardware in the background."""
        self.context.background(self.provider.detect)

    def _create_session(self, sid: str, **settings: Any) -> PluginSession:
        if sid == "stream":
            raise InvalidName("session id 'stream' is a reserved word: choose another name")
        return SysInfoSession(sid, self.provider, **settings)

    async def _homedir(self, request: Request) -> dict[str, str]:
        """Return the home directory of the user who runs this host."""
        return {"homedir": await anyio.to_thread.run_sync(os.path.expanduser, "~")}

    async def _host_role(self, request: Request) -> HostInfo:
        """Return what kind of host this is, its scheduler, and the job that it runs in."""
        return self.context.host

    async def _metrics(self, request: Request) -> Metrics:
        """Return a sample of system, processors, memory, disks, network and GPUs."""
        session: SysInfoSession = await self.session(request)
        return await session.metrics()

    async def _stream(self, request: Request) -> StreamingResponse:
        """Send a sample at once and then one every second, as server-sent events."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._events(), media_type="text/event-stream", headers=headers)

    async def _events(self) -> AsyncIterator[bytes]:
        async with aclosing(self.provider.stream()) as samples:
            async for sample in samples:
                yield b"data: " + bytes(Reply(sample).body) + b"\n\n"
