"""Be an endpoint until told to stop."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import anyio
import anyio.to_thread
import click

from ._loop import begin_collecting
from ._signals import until_told
from ._watchdog import watch_loop
from .config import EndpointConfig
from .host_role import detect_host


async def serve(
    config: EndpointConfig, settings: Mapping[str, Any], token: str | None = None
) -> None:
    """Say when it is linked; serve until SIGTERM, SIGINT or a bridge that does not want it."""
    async with anyio.create_task_group() as group:
        # What an endpoint consists of is imported while the scheduler is waited for.
        group.start_soon(anyio.to_thread.run_sync, import_module, ".endpoint", __package__)
        host = await detect_host()
    open_endpoint = import_module(".endpoint", __package__).open_endpoint
    async with (
        open_endpoint(config, host, settings=settings, token=token) as endpoint,
        watch_loop(),
        anyio.create_task_group() as group,
    ):
        begin_collecting()
        group.start_soon(_announce, endpoint)
        await until_told(endpoint.stopped)
        if endpoint.fatal is not None:
            raise endpoint.fatal
        group.cancel_scope.cancel()


async def _announce(endpoint: Any) -> None:
    await endpoint.linked.wait()
    plugins = ", ".join(endpoint.host.plugins.served) or "none"
    click.echo(
        f"endpoint {endpoint.name} ready: linked to {endpoint.access.url}, plugins: {plugins}"
    )
    await anyio.to_thread.run_sync(endpoint.hub.load)  # so that no plugin waits for it later
