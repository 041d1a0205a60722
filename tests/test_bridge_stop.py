from contextlib import asynccontextmanager

import anyio
import pytest

from orbit_core._link_transport import LinkTransport
from orbit_core.bridge import open_bridge
from orbit_core.client import AsyncBridgeClient
from orbit_core.config import BridgeConfig, EndpointConfig
from orbit_core.endpoint import open_endpoint
from orbit_core.models import HostInfo, HostRole
from orbit_core.ways.address import free_port
from tests.hub_plugins import LAST, LATE
from tests.offering import offer
from tests.waiting import until

pytestmark = pytest.mark.anyio

TOKEN = "orbit_" + "a" * 43


@pytest.fixture
async def outliving(tmp_path, monkeypatch):
    """Return what opens a bridge that hosts a plugin, whose endpoint then outlives it."""
    offer(tmp_path, monkeypatch, f"[orbit.plugins]\nlate = {LATE}\nlast = {LAST}\n")
    port = free_port()

    @asynccontextmanager
    async def opened(plugin):
        config = BridgeConfig(port=port, plugins=[plugin], state_dir=tmp_path / "bridge")
        async with open_bridge(config, token=TOKEN) as bridge:
            await until(lambda: bridge.registry.topology().get("node"), 20)
            yield bridge.host.plugins.served[plugin].plugin

    settings = EndpointConfig(
        name="node", url=f"http://127.0.0.1:{port}", plugins=[], state_dir=tmp_path / "node"
    )
    async with open_endpoint(settings, HostInfo(HostRole.STANDALONE), token=TOKEN) as endpoint:
        opened.endpoint = endpoint
        yield opened


async def test_a_plugin_that_the_bridge_hosts_is_answered_until_it_has_let_go(outliving):
    async with outliving("late") as plugin:
        pass

    assert plugin.answers == ["answered"]


async def test_a_plugin_that_the_bridge_hosts_reaches_no_endpoint_when_it_lets_go(outliving):
    async with outliving("last") as plugin:
        pass

    assert plugin.answers == ["the bridge stops"]


async def test_a_plugin_of_a_bridge_that_is_cancelled_waits_for_nothing(outliving):
    with anyio.CancelScope() as scope:
        async with outliving("late") as plugin:
            scope.cancel()
            await anyio.sleep_forever()

    assert plugin.answers == ["the bridge stops"]


async def test_what_an_endpoint_asks_of_a_plugin_ends_before_the_plugin_lets_go(outliving):
    async with anyio.create_task_group() as group:
        async with outliving("late") as plugin:
            hub = AsyncBridgeClient.over(LinkTransport(outliving.endpoint.link), "http://bridge")
            group.start_soon(_ask, hub, "/bridge/late/wait")
            await until(lambda: plugin.answers)
        group.cancel_scope.cancel()

    assert plugin.answers == ["asked", "left", "answered"]


async def _ask(hub, path):
    async with hub:
        await hub.request("GET", path)
