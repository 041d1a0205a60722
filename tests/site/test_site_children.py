"""Child endpoints on a site whose network lets one thing pass, or nothing at all."""

from contextlib import asynccontextmanager

import anyio
import attrs
import pytest
from orbit_psij import PSIJClient

from .cluster import open_cluster
from .network import PROXY, open_network
from .outpost import Outpost

pytestmark = [pytest.mark.site, pytest.mark.anyio]

PATIENCE = 100.0
NAME = "login.gpu"
WAYS = {
    "open": ("outwards", "none", "direct"),
    "proxy": ("proxy", "proxy", "proxy"),
    "tcp": ("tcp-to-login", "relay", "relay"),
    "ssh-out": ("ssh-to-login", "forward", "forward"),
    "ssh-in": ("ssh-to-compute", "reverse", "reverse"),
}
"""What passes, which mode is right for that, and which way the child takes then."""


@pytest.fixture(scope="module")
def network():
    with open_network() as found:
        yield found


@pytest.fixture(scope="module")
def walled_cluster(network):
    with open_cluster(network.places()) as found:
        yield found


@pytest.fixture
async def outpost(network, walled_cluster, tmp_path):
    found = Outpost(tmp_path, network, walled_cluster)
    try:
        found.start_bridge()
        await found.start_login()
        yield found
    finally:
        found.stop()


@attrs.define(eq=False)
class User:
    """Start children on the login endpoint, and ask what they do."""

    outpost: Outpost
    bridge: object
    client: PSIJClient

    async def spawn(self, tunnel, *arguments, name="gpu", **spec):
        return await self.client.submit_tunneled(
            {
                "arguments": ["--name", name, "--plugins", "sysinfo", *arguments],
                "environment": {} if tunnel == "none" else {"HTTPS_PROXY": PROXY},
                "attributes": {"duration": 600, "queue_name": "batch"},
                "resources": {"node_count": 1},
                **spec,
            },
            "slurm",
            tunnel,
        )

    async def until(self, condition, name=NAME):
        with anyio.fail_after(PATIENCE):
            while not condition(found := await self.client.tunnel_status(name)):
                await anyio.sleep(0.1)
        return found

    async def until_active(self, name=NAME):
        return await self.until(lambda found: found["status"] != "pending", name)

    async def answers(self, name=NAME):
        """Tell whether a child answers through the bridge."""
        return await self.bridge.request("GET", f"/{name}/sysinfo/version")

    async def until_linked(self, name=NAME):
        with anyio.fail_after(PATIENCE):
            await self.bridge.wait_for_endpoint(name, timeout=PATIENCE)


@asynccontextmanager
async def open_user(outpost):
    async with outpost.client() as bridge:
        endpoint = bridge.get_endpoint_client("login")
        client = await endpoint.get_plugin("psij", sid="lab", lifetime="persistent")
        try:
            yield User(outpost, bridge, client)
        finally:
            for child in await client.list_children():
                await client.stop_child(child["endpoint_name"])
            await anyio.to_thread.run_sync(outpost.wait_until_clear)


@pytest.fixture
async def user(outpost):
    async with open_user(outpost) as found:
        yield found


@pytest.mark.parametrize("is_auto", [False, True], ids=["told", "auto"])
@pytest.mark.parametrize("situation", WAYS)
async def test_a_child_is_reached_whatever_the_network_lets_pass(
    user, network, walled_cluster, situation, is_auto
):
    passage, mode, way = WAYS[situation]
    network.allow(walled_cluster.ports, passage)

    made = await user.spawn("auto" if is_auto else mode)
    assert made["endpoint_name"] == NAME
    found = await user.until_active()

    assert (found["status"], found["way"]) == ("active", way), found
    assert (await user.answers())["version"]

    await user.client.stop_child("gpu")
    user.outpost.wait_until_clear()
    assert (await user.client.tunnel_status(NAME))["status"] == "done"
