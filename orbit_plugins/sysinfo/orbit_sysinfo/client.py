"""Offer `SysInfoClient`, the plugin's routes as methods."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

from orbit_core.plugin_client import PluginClient


class SysInfoClient(PluginClient):
    """Ask a host what it is and does."""

    async def homedir(self) -> str:
        """Return the home directory of the user who runs the host. Raises OrbitError."""
        return str((await self.get("homedir"))["homedir"])

    async def host_role(self) -> dict[str, Any]:
        """Return ``role``, ``scheduler``, ``psij_executor``, ``job_id`` and ``python_version``.

        Raises OrbitError.
        """
        return dict(await self.get("host_role"))

    async def get_metrics(self) -> dict[str, Any]:
        """Return ``{system, cpu, memory, disks, network, gpus}``.

        Raises OrbitError, and RuntimeError without a session.
        """
        return dict(await self.get(f"metrics/{self._require_session()}"))

    async def stream_metrics(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what `get_metrics` returns, at once and then every second. Raises OrbitError."""
        waiting = b""
        async with aclosing(cast(Any, self.stream("metrics/stream"))) as chunks:
            async for chunk in chunks:
                *events, waiting = (waiting + chunk).split(b"\n\n")
                for event in events:
                    if event.startswith(b"data: "):
                        yield json.loads(event.removeprefix(b"data: "))
