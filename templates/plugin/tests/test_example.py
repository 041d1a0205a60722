from pathlib import Path

import pytest
from orbit_example.client import ExampleClient

from orbit_core.models import HostRole
from orbit_core.testing import open_deployment, open_plugin

pytestmark = pytest.mark.anyio

EXAMPLE = "orbit_example.plugin:ExamplePlugin"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_session_counts_and_tells(tmp_path: Path) -> None:
    async with open_plugin(EXAMPLE, tmp_path, instance="example") as tested, tested.http() as http:
        sid = (await http.post("/example/register_session", json={"first": 2})).json()["sid"]
        reply = await http.post(f"/example/add/{sid}", json={"amount": 5})
    assert reply.json() == {"value": 7}
    assert [(heard.topic, heard.data) for heard in tested.notifications] == [
        ("counted", {"value": 7})
    ]


async def test_an_amount_that_is_no_number_is_refused(tmp_path: Path) -> None:
    async with open_plugin(EXAMPLE, tmp_path, instance="example") as tested, tested.http() as http:
        reply = await http.post("/example/add/default", json={"amount": "many"})
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_body")


async def test_the_client_counts_through_a_bridge(tmp_path: Path) -> None:
    async with (
        open_deployment(tmp_path, plugins={"node7": [EXAMPLE]}) as deployment,
        deployment.client() as bridge,
    ):
        path = "/node7/example"
        client = ExampleClient(bridge.http, path, bridge, "node7", "example")
        await client.register_session(first=1)
        assert await client.add(4) == 5


async def test_a_module_with_hooks_serves_its_route(tmp_path: Path) -> None:
    bare = open_plugin("orbit_example.bare", tmp_path, instance="bare")
    async with bare as tested, tested.http() as http:
        reply = await http.get("/bare/hello")
    assert reply.json() == {"hello": "test"}


async def test_a_module_with_hooks_declines_the_bridge(tmp_path: Path) -> None:
    bridge = HostRole.BRIDGE
    async with open_plugin("orbit_example.bare", tmp_path, instance="bare", role=bridge) as tested:
        assert tested.status.state == "disabled"
