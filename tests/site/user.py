"""Be somebody who starts children on the login endpoint of an outpost, and works with them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.to_thread
import attrs
from orbit_psij import PSIJClient

from orbit_core.client import AsyncBridgeClient
from orbit_core.errors import OrbitError

from .network import PROXY
from .outpost import Outpost

PATIENCE = 100.0
"""Seconds in which a child has got as far as is asked."""

NAME = "login.gpu"
"""What a child is called that is given no name."""

PLACE = "/proc/self/ns/net"
"""A link to the network namespace of whoever reads it."""

SHELL = f'echo "$0 $ORBIT_TEST_SETUP $SLURM_JOB_ID$PBS_JOBID"; readlink {PLACE}'


@attrs.define(eq=False)
class User:
    """Start children, and ask what they do."""

    outpost: Outpost
    bridge: AsyncBridgeClient
    client: PSIJClient

    async def spawn(
        self, tunnel: str, *arguments: str, name: str = "gpu", plugins: str = "sysinfo", **spec: Any
    ) -> dict[str, Any]:
        """Submit the job of a child on one node."""
        return await self.client.submit_tunneled(
            {
                "arguments": ["--name", name, "--plugins", plugins, *arguments],
                "environment": {} if tunnel == "none" else {"HTTPS_PROXY": PROXY},
                "attributes": {"duration": 600, "queue_name": "batch"},
                "resources": {"node_count": 1},
                **spec,
            },
            self.outpost.scheduler,
            tunnel,
        )

    async def until(
        self, condition: Callable[[dict[str, Any]], bool], name: str = NAME
    ) -> dict[str, Any]:
        """Return a child's status once a condition holds for it."""
        with anyio.fail_after(PATIENCE):
            while not condition(found := await self.client.tunnel_status(name)):
                await anyio.sleep(0.1)
        return found

    async def until_active(self, name: str = NAME) -> dict[str, Any]:
        """Return a child's status once it is linked, by a way that is known, or given up."""
        return await self.until(
            lambda found: found["way"] is not None or found["status"] not in ("pending", "active"),
            name,
        )

    async def answers(self, name: str = NAME) -> dict[str, Any]:
        """Return what a child answers through the bridge."""
        return await self.bridge.request("GET", f"/{name}/sysinfo/version")

    async def until_answers(self, name: str = NAME) -> dict[str, Any]:
        """Return the same once it does answer."""
        with anyio.fail_after(PATIENCE):
            while True:
                with suppress(OrbitError):
                    return await self.answers(name)
                await anyio.sleep(0.1)

    async def run_tasks(self, name: str = NAME) -> tuple[dict[str, Any], dict[str, Any]]:
        """Have a child run a program and a function, and return how they ended.

        Both tell in which network they ran, the program also in which job.
        """
        endpoint = self.bridge.get_endpoint_client(name)
        rhapsody = await endpoint.get_plugin("rhapsody", backends=["concurrent"])
        submitted = await rhapsody.submit_tasks([
            {"executable": "/bin/sh", "arguments": ["-c", SHELL, "task"]},
            {"function": "os:readlink", "args": [PLACE]},
        ])  # fmt: skip
        program, function = await rhapsody.wait_tasks(submitted, PATIENCE)
        await rhapsody.close()
        return program, function


@asynccontextmanager
async def open_user(outpost: Outpost) -> AsyncIterator[User]:
    """Be a user while the context is open; then stop the children, of whom nothing may stay."""
    async with outpost.client() as bridge:
        endpoint = bridge.get_endpoint_client("login")
        client = await endpoint.get_plugin("psij", sid="lab", lifetime="persistent")
        try:
            yield User(outpost, bridge, client)
        finally:
            for child in await client.list_children():
                await client.stop_child(child["endpoint_name"])
            await anyio.to_thread.run_sync(outpost.wait_until_clear)
