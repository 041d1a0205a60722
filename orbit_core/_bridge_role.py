"""Be a bridge until told to stop."""

from collections.abc import Mapping
from typing import Any

import anyio.to_thread
import click

from ._hub import Hub
from ._loop import begin_collecting
from ._memory import keep_giving_back
from ._signals import until_told
from ._tasks import open_tasks
from ._watchdog import watch_loop
from .bridge import open_bridge
from .config import BridgeConfig


async def serve(config: BridgeConfig, settings: Mapping[str, Any], token: str | None) -> None:
    """Say when it is ready, and serve until SIGTERM or SIGINT."""
    async with (
        open_bridge(config, settings, token) as bridge,
        watch_loop(),  # from here on: plugins that are imported block nobody's calls
        open_tasks() as group,
    ):
        begin_collecting()
        group.start_soon(keep_giving_back)
        click.echo(f"bridge ready: {bridge.url}")
        if bridge.host.plugins.served:
            await anyio.to_thread.run_sync(Hub.load)  # so that no plugin waits for it later
        await until_told(bridge.stopped)
