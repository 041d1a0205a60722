"""Start what is measured, each in a process of its own: bare application, bridge, endpoint."""

import os
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import anyio
import uvicorn
from plugin_under_load import bare

from orbit_core._loop import run_server
from orbit_core.bridge import open_bridge
from orbit_core.config import BridgeConfig, EndpointConfig
from orbit_core.endpoint import open_endpoint
from orbit_core.models import HostInfo, HostRole
from orbit_core.plugins import installed


async def _bridge(port: int, state: Path | None, cert: Path | None, key: Path | None) -> None:
    # One caller makes the whole load: no limit for it.
    config = BridgeConfig(port=port, state_dir=state, cert=cert, key=key, plugins=[], rate_limit=0)
    async with open_bridge(config):
        await anyio.sleep_forever()


async def _endpoint(url: str, name: str, state: Path | None, token: str, cert: Path | None) -> None:
    plugin = EntryPoint("load", "plugin_under_load:PLUGIN", "orbit.plugins")
    config = EndpointConfig(
        name=name, url=url, state_dir=state, cert=cert, plugins=["load", "psij", "staging"]
    )
    available = {**installed(), "load": plugin}
    host = HostInfo(HostRole.STANDALONE)
    settings = {"staging": {"directory": os.environ["BENCH_FILES"]}}
    async with open_endpoint(
        config, host, settings=settings, token=token, available=available
    ) as endpoint:
        await endpoint.stopped.wait()


def main(role: str, *arguments: str) -> None:
    """Run one server until killed."""
    paths = [Path(argument) if argument else None for argument in arguments]
    match role:
        case "bare":
            uvicorn.run(
                bare(),
                port=int(arguments[0]),
                loop="uvloop",
                http="httptools",
                access_log=False,
                log_level="error",
                ssl_certfile=arguments[1] or None,
                ssl_keyfile=arguments[2] or None,
            )
        case "bridge":
            run_server(_bridge, int(arguments[0]), paths[1], paths[2], paths[3])
        case "endpoint":
            url, name, _, token, _ = arguments
            run_server(_endpoint, url, name, paths[2], token, paths[4])


if __name__ == "__main__":
    main(*sys.argv[1:])
