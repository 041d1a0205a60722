import logging
from functools import partial

import anyio
import pytest

from orbit_core import _hub
from orbit_core import endpoint as endpoint_module
from orbit_core._frames import Kind, RequestHead, pack_value
from orbit_core.bridge import open_bridge
from orbit_core.config import BridgeConfig, EndpointConfig
from orbit_core.endpoint import open_endpoint
from orbit_core.errors import (
    ConfigError,
    ConnectionLost,
    DeadlineExceeded,
    EndpointLost,
    Forbidden,
    GatewayTimeout,
    InvalidName,
    NameInUse,
    OrbitError,
    Unauthorized,
)
from orbit_core.models import HostInfo, HostRole, Principal, Role
from orbit_core.testing import ADMIN, BOB, open_deployment
from tests.connect_proxy import open_proxy
from tests.hub_plugins import EARLY, LATE
from tests.probe_plugin import PROBE, probe_of
from tests.waiting import until, until_still

pytestmark = pytest.mark.anyio

HOST = HostInfo(HostRole.STANDALONE)


def lonely(deployment, tmp_path, **changes):
    settings = {"name": "lonely", "url": deployment.url, "plugins": [], "state_dir": tmp_path / "l"}
    return EndpointConfig(**{**settings, **changes})


async def test_an_endpoint_comes_back_by_itself_when_its_bridge_restarts(tmp_path):
    config = BridgeConfig(port=0, plugins=[])
    async with open_deployment(tmp_path, config=config) as first:
        token = await first.token(Principal("alice", Role.ENDPOINT))
        url = first.url
    again = BridgeConfig(
        port=int(url.rpartition(":")[2]), plugins=[], state_dir=tmp_path / "bridge"
    )
    settings = EndpointConfig(name="node", url=url, plugins=[], state_dir=tmp_path / "node")
    async with open_endpoint(settings, HOST, token=token) as endpoint:
        for _ in range(2):
            async with open_bridge(again) as bridge:
                await until(lambda: bridge.registry.topology().get("node"), 20)
                await until(lambda: endpoint.link.is_attached)
        assert not endpoint.stopped.is_set()


async def test_an_endpoint_that_cannot_write_its_key_is_back_all_the_same(
    deployment, client, caplog
):
    endpoint = deployment.endpoints["node"]
    key = endpoint.host.store.path.parent / "resume.key"
    key.unlink()
    key.mkdir()
    for _ in range(2):
        deployment.bridge.registry.remove("node", EndpointLost("forgotten"))
        await until(lambda: deployment.bridge.registry.topology().get("node"))
    assert await client.request("GET", "/node/probe/echo")
    assert not endpoint.stopped.is_set()
    assert "the name is kept only until this endpoint stops" in caplog.text


async def test_a_call_goes_on_when_the_network_breaks_under_it(deployment, client):
    endpoint = deployment.endpoints["node"]
    answers = []

    async def call():
        answers.append(await client.request("GET", "/node/probe/hang"))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await until(lambda: probe_of(endpoint).entered)
            endpoint.link.cut()
            await until(lambda: endpoint.link.is_attached)
            probe_of(endpoint).go.set()
    assert answers == [{"went": True}]


async def test_a_link_whose_protocol_broke_begins_anew(deployment, client):
    endpoint = deployment.endpoints["node"]
    for link in (endpoint.link, deployment.bridge.registry.get("node").link):
        before = link
        link.send(1, 1 + link._first_id % 2, b"rubbish")
        await until(lambda link=before: not link.is_attached or link.is_broken)
        await until(lambda: endpoint.link.is_attached and not endpoint.link.is_broken)
        with anyio.fail_after(10):
            await client.wait_for_endpoint("node")
            assert await client.request("GET", "/node/probe/echo")


async def test_an_endpoint_restarted_under_its_name_serves_again(deployment, client):
    for _ in range(2):
        async with deployment.endpoint("other", [PROBE]):
            assert await client.request("GET", "/other/probe/echo")


async def test_a_plugin_calls_a_plugin_of_another_endpoint(deployment, client):
    async with deployment.endpoint("other", [PROBE]):
        body = {"path": "/node/probe/echo"}
        reply = await client.request("POST", "/other/probe/hub", body)
    assert reply["status"] == 200
    assert (reply["answer"]["owner"], reply["answer"]["endpoint"]) == ("alice", "other")


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_a_plugin_sends_a_body_of_any_size_through_its_hub(deployment, client, size):
    body = {"path": "/node/probe/sink", "method": "POST", "size": size}
    reply = await client.request("POST", "/node/probe/hub", body)
    assert reply["answer"] == {"size": size}


async def test_a_plugin_hears_an_answer_that_came_before_its_body_was_taken(client):
    body = {"path": "/node/probe/nothing", "method": "POST", "size": 3_000_000}
    reply = await client.request("POST", "/node/probe/hub", body)
    assert reply["status"] == 404


async def test_a_plugin_hears_that_an_answer_broke_off(deployment, client):
    with pytest.raises(OrbitError) as told:
        await client.request("POST", "/node/probe/hub", {"path": "/node/probe/break"})
    assert told.value.detail == "broken on purpose"


async def test_a_plugin_may_not_call_the_endpoint_of_another_owner(deployment, client):
    async with deployment.endpoint("hers", [PROBE], owner="bob"):
        body = {"path": "/hers/probe/echo"}
        reply = await client.request("POST", "/node/probe/hub", body)
    assert reply["status"] == 403
    assert reply["answer"]["code"] == "forbidden"


async def test_a_plugin_may_call_the_shared_endpoint_of_another_owner(deployment, client):
    async with deployment.endpoint("everybodys", [PROBE], owner="bob", shared=True):
        body = {"path": "/everybodys/probe/echo"}
        reply = await client.request("POST", "/node/probe/hub", body)
    assert (reply["status"], reply["answer"]["endpoint"]) == (200, "node")


async def test_a_plugin_is_told_an_unknown_endpoint(client):
    reply = await client.request("POST", "/node/probe/hub", {"path": "/nobody/x"})
    assert (reply["status"], reply["answer"]["code"]) == (404, "unknown_endpoint")


async def test_plugins_hear_who_comes_and_goes(deployment):
    heard = probe_of(deployment.endpoints["node"]).topologies
    async with deployment.endpoint("other"):
        await until(lambda: "other" in heard[-1])
    await until(lambda: "other" not in heard[-1])
    assert "node" in heard[-1]


async def test_an_endpoint_that_stops_tells_so_and_its_calls_end_at_once(deployment, client):
    async with deployment.endpoint("brief"):
        pass
    await until(lambda: "brief" not in deployment.bridge.registry.topology())


async def test_an_endpoint_told_to_leave_stops_and_says_why(deployment):
    async with deployment.client(ADMIN) as admin:
        await admin.disconnect_endpoint("node")
    endpoint = deployment.endpoints["node"]
    with anyio.fail_after(5):
        await endpoint.stopped.wait()
    assert isinstance(endpoint.fatal, Forbidden)
    assert "told this endpoint to leave" in endpoint.fatal.detail


@pytest.mark.parametrize(
    ("token", "kind"),
    [("orbit_wrong", Unauthorized), (None, Unauthorized), (BOB, Forbidden)],
    ids=["wrong", "none", "a client's"],
)
async def test_an_endpoint_that_is_refused_stops_at_once(deployment, tmp_path, token, kind):
    shown = await deployment.token(token) if isinstance(token, Principal) else token
    async with open_endpoint(lonely(deployment, tmp_path), HOST, token=shown) as endpoint:
        with anyio.fail_after(5):
            await endpoint.stopped.wait()
    assert isinstance(endpoint.fatal, kind)


async def test_an_endpoint_whose_name_stays_in_use_gives_up(deployment, tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint_module, "NAME_PATIENCE", 0.0)
    token = await deployment.token(Principal("alice", Role.ENDPOINT))
    config = lonely(deployment, tmp_path, name="node")
    async with open_endpoint(config, HOST, token=token) as endpoint:
        with anyio.fail_after(5):
            await endpoint.stopped.wait()
    assert isinstance(endpoint.fatal, NameInUse)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"name": "../x"}, InvalidName),
        ({"name": "events"}, InvalidName),
        ({"url": "ftp://x"}, ConfigError),
        ({"url": "http://"}, ConfigError),
        ({"url": "https://localhost:1", "cert": "nowhere.pem"}, ConfigError),
    ],
    ids=["path as name", "reserved name", "no URL", "no host", "no certificate"],
)
async def test_an_endpoint_with_a_wrong_setting_does_not_start(deployment, tmp_path, changes, kind):
    with pytest.raises(kind):
        async with open_endpoint(lonely(deployment, tmp_path, **changes), HOST, token="x"):
            pass


async def test_what_a_plugin_says_and_asks_before_the_first_link_is_not_lost(deployment, client):
    events = client.events(topic="news")
    assert (await anext(events)).kind == "topology"
    async with deployment.endpoint("other", [EARLY]) as endpoint:
        plugin = endpoint.host.plugins.served["early"].plugin
        with anyio.fail_after(10):
            await plugin.answered.wait()
            while (event := await anext(events)).kind != "notification":
                pass
    await events.aclose()
    assert plugin.endpoints == ["node", "other"]
    assert (event.data["plugin"], event.data["data"]) == ("early", "loaded")


async def test_a_plugin_of_an_endpoint_that_stops_is_told_so_by_its_calls(deployment):
    async with deployment.endpoint("other", [LATE]) as endpoint:
        plugin = endpoint.host.plugins.served["late"].plugin
        plugin.asks.set()
        await until(lambda: probe_of(deployment.endpoints["node"]).entered == 1)

    assert plugin.answers == ["endpoint other stops"] * 3


async def test_a_plugin_of_an_endpoint_that_is_cancelled_waits_for_nothing(deployment):
    with anyio.CancelScope() as scope:
        async with deployment.endpoint("other", [LATE]) as endpoint:
            plugin = endpoint.host.plugins.served["late"].plugin
            scope.cancel()
            await anyio.sleep_forever()

    assert plugin.answers == ["endpoint other stops"]


async def test_an_endpoint_dials_on_while_its_bridge_is_away(deployment, tmp_path, caplog):
    config = lonely(deployment, tmp_path, url="http://127.0.0.1:9")
    async with open_endpoint(config, HOST, token="x") as endpoint:
        await until(lambda: caplog.text.count("cannot reach") >= 2)
        assert not endpoint.stopped.is_set()


@pytest.fixture
def portal_answer():
    return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


async def levels(caplog, config, said):
    """Return how loudly an endpoint ``said`` something the first and the second time."""
    caplog.set_level(logging.DEBUG, "orbit_core.endpoint")
    async with open_endpoint(config, HOST, token="x") as endpoint:

        def found():
            return [entry.levelname for entry in caplog.records if said in entry.message]

        await until(lambda: len(found()) >= 2, 20)
        assert not endpoint.stopped.is_set()
    return found()[:2]


async def test_a_bridge_under_another_path_is_told_once_and_dialed_on(deployment, tmp_path, caplog):
    url = f"{deployment.url}/orbit"
    asked = f"{url.replace('http', 'ws')}/register"
    said = (
        f"a bridge answers for {url}, but takes no endpoints at {asked} (HTTP 404): check the "
        "path of its URL, a bridge by itself has none: trying again"
    )
    config = lonely(deployment, tmp_path, url=url)
    assert await levels(caplog, config, said) == ["WARNING", "DEBUG"]


async def test_another_server_in_place_of_the_bridge_is_told_once_and_dialed_on(
    deployment, tmp_path, caplog, portal_answer
):
    async with open_proxy(answer=portal_answer) as portal:
        url = portal.url()
        said = (
            f"something other than an ORBIT bridge answers for {url}: HTTP 404 Not Found for "
            f"{url.replace('http', 'ws')}/register: check host, port and path of the bridge's URL: "
            "trying again"
        )
        config = lonely(deployment, tmp_path, url=url)
        assert await levels(caplog, config, said) == ["WARNING", "DEBUG"]


async def test_a_notification_is_dropped_and_told_when_too_many_wait(
    deployment, monkeypatch, caplog
):
    plugin = probe_of(deployment.endpoints["node"])
    monkeypatch.setattr("orbit_core._link.UNACKNOWLEDGED_LIMIT", -1)
    plugin.context.notify("news", 1)
    await until(lambda: "a notification of probe was dropped" in caplog.text)


async def test_a_call_of_an_endpoints_own_that_is_overdue_ends_typed(deployment, monkeypatch):
    monkeypatch.setattr(_hub, "EXPIRY_INTERVAL", 0.01)
    async with deployment.endpoint("other") as other:
        head = RequestHead("GET", b"/node/probe/hang", [], {})
        stream = other.link.call(head, b"", fin=True, deadline=0.05)
        with anyio.fail_after(10), pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
            await stream.response()


async def test_a_topology_that_is_none_breaks_the_link_and_it_begins_anew(
    deployment, client, caplog
):
    endpoint = deployment.endpoints["node"]
    link = deployment.bridge.registry.get("node").link
    link.send(Kind.TOPOLOGY, 0, pack_value({"changed": {"x": 7}}))
    await until(lambda: "the bridge sent a TOPOLOGY that is none" in caplog.text)
    await until(lambda: endpoint.link.is_attached and not endpoint.link.is_broken)
    with anyio.fail_after(10):
        await client.wait_for_endpoint("node")


async def test_opening_an_endpoint_again_does_not_block_the_loop(deployment, unblocked):
    for _ in range(2):
        async with deployment.endpoint("other", [PROBE]) as endpoint:
            assert endpoint.linked.is_set()


async def test_what_a_later_bridge_may_say_is_passed_over(deployment, client):
    link = deployment.bridge.registry.get("node").link
    link.send(Kind.HELLO, 0, pack_value({}))
    link.send(Kind.EVENT, 0, pack_value({}))
    assert await client.request("GET", "/node/probe/echo")
    assert not link.is_broken


async def test_an_endpoint_told_to_stop_dials_no_more(deployment):
    endpoint = deployment.endpoints["node"]
    endpoint.stopped.set()
    endpoint.link.cut()
    with anyio.fail_after(5):
        await endpoint.stay_linked()
    assert endpoint.fatal is None


async def test_a_call_through_the_hub_that_its_caller_leaves_is_cancelled(deployment, client):
    async with deployment.endpoint("other", [PROBE]) as other:
        hub = probe_of(other).context.hub
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(hub.http.get, "/node/probe/hang")
                await until(lambda: probe_of(deployment.endpoints["node"]).entered)
                group.cancel_scope.cancel()
        await until(lambda: probe_of(deployment.endpoints["node"]).cancelled)


async def test_a_body_through_the_hub_is_made_as_it_is_taken(deployment):
    made = []

    async def body():
        while len(made) < 1000:
            made.append(True)
            yield bytes(2**17)

    node = probe_of(deployment.endpoints["node"])
    async with deployment.endpoint("other", [PROBE]) as other:
        http = probe_of(other).context.hub.http
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(partial(http.post, "/node/probe/hang", content=body()))
                await until(lambda: node.entered)
                await until_still(lambda: len(made))
                assert len(made) < 100
                group.cancel_scope.cancel()
        made.clear()
        with anyio.fail_after(30):
            reply = await http.post("/node/probe/sink", content=body())
    assert reply.json() == {"size": 1000 * 2**17}


async def test_a_plugin_says_how_long_it_waits_for_an_answer(deployment, monkeypatch):
    monkeypatch.setattr(_hub, "EXPIRY_INTERVAL", 0.01)
    async with deployment.endpoint("other", [PROBE]) as other:
        http = probe_of(other).context.hub.http
        with anyio.fail_after(10):
            with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.05 s"):
                await http.get("/node/probe/hang", timeout=0.05)
            async with http.stream("GET", "/node/probe/trickle", timeout=0.2) as reply:
                parts = reply.aiter_bytes()
                assert await anext(parts) == b"part\n"
                with pytest.raises(GatewayTimeout, match=r"nothing came for 0\.2 s"):
                    await anext(parts)
            reply = await http.get("/node/probe/echo", timeout=None)
    assert reply.status_code == 200


async def test_a_body_through_the_hub_that_breaks_off_is_a_lost_connection(deployment):
    async with deployment.endpoint("other", [PROBE]) as other:
        hub = probe_of(other).context.hub

        async def cut():
            await until(lambda: probe_of(deployment.endpoints["node"]).entered)
            other.link.reset(ConnectionLost("the bridge was restarted during the call"))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(cut)
                with pytest.raises(ConnectionLost, match="restarted"):
                    await hub.http.post("/node/probe/hang", content=b"x" * 3_000_000)
