import json
import sys
from contextlib import aclosing

import anyio
import anyio.to_thread
import httpx
import pytest
from anyio.abc import SocketAttribute

from orbit_core import BridgeClient
from orbit_core import client as client_module
from orbit_core._eager import EagerTransport
from orbit_core._events import KEEP_ALIVE_COMMENT
from orbit_core._transport import RetryTransport
from orbit_core.bridge import open_bridge
from orbit_core.client import AsyncBridgeClient
from orbit_core.config import BridgeConfig
from orbit_core.errors import (
    ConfigError,
    ConnectionLost,
    DeadlineExceeded,
    Forbidden,
    OrbitError,
    Unauthorized,
    UnknownEndpoint,
    UnknownRoute,
)
from orbit_core.plugin import Plugin
from orbit_core.plugin_client import PluginClient
from orbit_core.testing import ADMIN, ALICE, open_deployment
from tests.probe_plugin import notify
from tests.waiting import until

pytestmark = pytest.mark.anyio

NOTES = "tests.notes_plugin:NotesPlugin"


async def test_endpoints_and_plugins_are_described(client):
    assert list(await client.list_endpoints()) == ["node"]
    node = client.get_endpoint_client("node")
    assert list(await node.list_plugins()) == ["probe"]
    assert [status["state"] for status in (await node.describe())["statuses"]] == ["served"]
    assert (await client.plugins())["plugins"] == {}


async def test_a_plugin_without_sessions_gives_a_client_without_one(client):
    plugin = await client.get_endpoint_client("node").get_plugin("probe")
    assert plugin.sid is None
    assert await plugin.post("sink", {"a": 1}) == {"size": 7}


async def test_a_plugin_that_is_not_served_is_told_with_those_that_are(client):
    with pytest.raises(UnknownRoute, match="serves no plugin 'psij'; available: probe"):
        await client.get_endpoint_client("node").get_plugin("psij")


async def test_errors_come_back_in_their_types(deployment, client):
    with pytest.raises(UnknownEndpoint):
        await client.get_endpoint_client("nobody").describe()
    with pytest.raises(Forbidden):
        await client.list_tokens()
    async with AsyncBridgeClient(deployment.url, token="orbit_wrong") as stranger:
        with pytest.raises(Unauthorized):
            await stranger.whoami()
        with pytest.raises(Unauthorized):
            await anext(stranger.events())


async def test_an_answer_that_is_no_json_is_an_error(client):
    with pytest.raises(OrbitError, match="answers no JSON"):
        await client.request("GET", "/node/probe/text")


async def test_an_answer_that_breaks_off_is_a_lost_connection(client):
    with pytest.raises(ConnectionLost):
        await client.request("GET", "/node/probe/break")


async def test_tokens_are_made_listed_and_revoked(deployment):
    async with deployment.client(ADMIN) as admin:
        made = await admin.create_token("client", "carol", expires=60)
        assert made["id"] in [token["id"] for token in await admin.list_tokens()]
        await admin.revoke_token(made["id"])
        assert made["id"] not in [token["id"] for token in await admin.list_tokens()]
        assert await admin.whoami() == {"owner": "root", "role": "admin"}


async def test_an_administrator_stops_endpoint_and_bridge(deployment):
    async with deployment.client(ADMIN) as admin:
        await admin.disconnect_endpoint("node")
        await admin.terminate_bridge()
    assert deployment.bridge.stopped.is_set()


async def test_waiting_for_an_endpoint_ends_when_it_comes(deployment, client):
    beats = []
    async with anyio.create_task_group() as group:

        async def wait():
            await client.wait_for_endpoint(
                ["node", "late"], 10, 0.01, on_heartbeat=beats.append, heartbeat_interval=0
            )
            group.cancel_scope.cancel()

        group.start_soon(wait)
        await until(lambda: beats)
        async with deployment.endpoint("late"):
            await anyio.sleep_forever()
    assert beats == sorted(beats)


async def test_waiting_in_vain_tells_who_is_missing(client):
    with pytest.raises(DeadlineExceeded, match=r"not connected after 0\.05 s: a, b"):
        await client.wait_for_endpoint(["node", "b", "a"], timeout=0.05)


async def test_callbacks_hear_what_they_asked_for_and_may_fail(client, caplog):
    heard, topologies = [], []

    def broken(*arguments):
        raise RuntimeError("mine")

    async def note(*arguments):
        heard.append(arguments)

    client.register_callback("node", None, None, broken)
    client.register_callback("node", "probe", "news", note)
    client.register_callback("node", "other", None, note)
    client.register_topology_callback(topologies.append)
    await client.wait_for_listener()
    await notify(client, 1)
    await until(lambda: heard)
    assert heard == [("node", "probe", "news", 1)]
    assert list(topologies[0]) == ["node"]
    assert f"the callback {broken!r} failed" in caplog.text
    client.unregister_callback("node", "probe", "news", note)
    client.unregister_topology_callback(topologies.append)
    plugin = await client.get_endpoint_client("node").get_plugin("probe")
    again = []
    plugin.register_notification_callback(lambda *found: again.append(found[-1]), "news")
    await notify(client, 2)
    await until(lambda: again == [2])
    assert len(heard) == 1


async def test_callbacks_need_an_open_client(deployment):
    client = AsyncBridgeClient(deployment.url)
    with pytest.raises(RuntimeError, match="context manager"):
        client.register_topology_callback(print)
    await client.close()


async def test_a_client_that_is_not_open_says_so(deployment):
    client = AsyncBridgeClient(deployment.url)
    with pytest.raises(
        RuntimeError, match=r"^this client is not open: use it as a context manager"
    ):
        await client.list_endpoints()


async def test_opening_a_client_does_not_block_the_loop(deployment, unblocked, monkeypatch):
    monkeypatch.setenv("ORBIT_URL", deployment.url)
    monkeypatch.setenv("ORBIT_TOKEN", await deployment.token())
    async with AsyncBridgeClient() as client:
        assert await client.get_endpoint_client("node").get_plugin("probe")


async def test_a_client_knows_its_bridge(deployment, client):
    assert client.url == deployment.url


async def test_a_listener_that_is_refused_says_so(deployment, caplog):
    async with AsyncBridgeClient(deployment.url, token="orbit_wrong") as client:
        with pytest.raises(DeadlineExceeded):
            await client.wait_for_listener(timeout=0.2)
    assert "no more notifications arrive" in caplog.text


async def test_a_comment_that_keeps_an_event_stream_alive_is_no_event():
    topology, news = b'{"topic": "topology", "data": {}}', b'{"topic": "notification", "data": {}}'
    body = b"id: e-1\ndata: %s\n\n%sid: e-2\ndata: %s\n\n"
    content = body % (topology, KEEP_ALIVE_COMMENT, news)
    headers = {"Content-Type": "text/event-stream"}
    inner = Failing(httpx.Response(200, headers=headers, content=content))
    async with (
        AsyncBridgeClient.over(inner, "http://x") as client,
        aclosing(client.events()) as heard,
    ):
        assert [(await anext(heard)).kind for _ in range(2)] == ["topology", "notification"]


async def test_a_gap_ends_no_callback_and_is_told_to_none():
    gap, news = b'{"topic": "gap", "data": {}}', {"endpoint": "node", "plugin": "p", "topic": "t"}
    notification = json.dumps({"topic": "notification", "data": {**news, "data": 1}}).encode()
    content = b"data: %s\n\ndata: %s\n\n" % (gap, notification)
    headers = {"Content-Type": "text/event-stream"}
    inner = Failing(httpx.Response(200, headers=headers, content=content))
    heard = []
    async with AsyncBridgeClient.over(inner, "http://x") as client:
        client.register_callback(None, None, None, lambda *found: heard.append(found))
        await until(lambda: heard)
    assert heard == [("node", "p", "t", 1)]


async def test_an_event_stream_goes_on_where_it_broke(deployment, client):
    events = client.events(topic="news")
    assert (await anext(events)).kind == "topology"
    await notify(client, 1)
    found = [await anext(events)]
    (connection,) = deployment.bridge.listeners
    connection.abort()
    await notify(client, 2)
    with anyio.fail_after(10):
        while len(found) < 2:
            event = await anext(events)
            if event.kind == "notification":
                found.append(event)
    assert [event.data["data"] for event in found] == [1, 2]
    await events.aclose()


async def test_an_event_stream_that_broke_before_its_first_event_misses_none(deployment, client):
    events = client.events(topic="news")
    assert (await anext(events)).kind == "topology"
    (connection,) = deployment.bridge.listeners
    connection.abort()
    await notify(client, 1)
    with anyio.fail_after(10):
        while (event := await anext(events)).kind != "notification":
            pass
    assert event.data["data"] == 1
    await events.aclose()


async def test_a_bridge_that_was_restarted_tells_of_a_gap(tmp_path):
    async with open_deployment(tmp_path) as first:
        url, token = first.url, await first.token()
    config = BridgeConfig(
        port=int(url.rpartition(":")[2]), plugins=[], state_dir=tmp_path / "bridge"
    )
    async with AsyncBridgeClient(url, token=token) as client:
        events = client.events()
        async with open_bridge(config):
            assert (await anext(events)).kind == "topology"
        async with open_bridge(config):
            with anyio.fail_after(15):
                found = [await anext(events), await anext(events)]
        await events.aclose()
    assert [event.kind for event in found] == ["topology", "gap"]
    assert found[1].data["lost"] is None


FORGETFUL = """
import json
import sys
from orbit_core import BridgeClient
bridge = BridgeClient(sys.argv[1], token=sys.argv[2])
bridge.register_topology_callback(lambda endpoints: None)
bridge.wait_for_listener()
sys.exit("on purpose")
"""


async def test_a_script_that_fails_before_it_closes_its_client_ends(deployment):
    command = [sys.executable, "-c", FORGETFUL, deployment.url, await deployment.token()]
    with anyio.fail_after(30):
        done = await anyio.run_process(command, check=False)
    assert (done.returncode, done.stderr) == (1, b"on purpose\n")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_busy_answer_is_asked_for_again_where_that_is_safe(client, method):
    headers = {"Idempotency-Key": "k1"} if method == "POST" else {}
    reply = await client.request(method, "/node/probe/busy", **headers)
    assert reply == {"calls": 2}


async def test_a_write_without_a_key_is_sent_once(client):
    with pytest.raises(OrbitError) as told:
        await client.request("POST", "/node/probe/busy")
    assert told.value.status_code == 503


async def test_an_answer_is_taken_as_far_as_it_has_come():
    rest, is_sent = bytes(200_000), anyio.Event()

    async def answer(connection):
        async with connection:
            await connection.receive()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 200001\r\n\r\n0")
            await connection.send(rest)
            is_sent.set()
            await anyio.sleep_forever()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        httpx.AsyncClient(transport=EagerTransport(None)) as client,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, answer)
        port = listener.extra(SocketAttribute.local_port)
        async with client.stream("GET", f"http://127.0.0.1:{port}/") as response:
            await is_sent.wait()
            parts = [part async for part in response.aiter_raw()]
        group.cancel_scope.cancel()
    assert sum(map(len, parts)) == 200_001
    assert max(map(len, parts)) > 64 * 1024


async def in_pieces():
    yield b"a body "
    yield b"in pieces"


@pytest.mark.parametrize(
    ("content", "size"),
    [(b"small", 5), (bytes(100_000), 100_000), (in_pieces(), 31)],
    ids=["small", "large", "in pieces"],
)
async def test_a_body_comes_whole_and_a_small_one_with_its_head(content, size):
    received = b""
    pieces = 0

    async def answer(connection):
        nonlocal received, pieces
        async with connection:
            while len(received.partition(b"\r\n\r\n")[2]) < size:
                received += await connection.receive()
                pieces += 1
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, answer)
        port = listener.extra(SocketAttribute.local_port)
        with anyio.fail_after(20):
            async with httpx.AsyncClient(transport=EagerTransport(None)) as client:
                await client.post(f"http://127.0.0.1:{port}/", content=content)
        group.cancel_scope.cancel()
    assert len(received.partition(b"\r\n\r\n")[2]) == size
    assert pieces == 1 or size != 5


class Failing(httpx.AsyncBaseTransport):
    """Fail so many times, then answer."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.calls = 0

    async def handle_async_request(self, request):
        self.calls += 1
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return failure
        return httpx.Response(200)


async def sent(inner, method, patience=30.0, **headers):
    async with httpx.AsyncClient(transport=RetryTransport(inner, patience)) as client:
        return await client.request(method, "http://x/", headers=headers)


async def test_a_bridge_that_never_answered_is_told_of_once(caplog):
    refused = httpx.ConnectError("refused")
    await sent(Failing(refused, refused), "GET")
    told = [record.getMessage() for record in caplog.records]
    assert told == ["no bridge answers at http://x (refused): trying for 30 s"]


async def test_a_bridge_that_answered_once_is_waited_for_in_silence(caplog):
    transport = RetryTransport(Failing(httpx.Response(503), httpx.ReadError("cut")))
    async with httpx.AsyncClient(transport=transport) as client:
        assert (await client.get("http://x/")).status_code == 200
    assert not caplog.records


@pytest.mark.parametrize(
    ("failure", "method", "headers"),
    [
        (httpx.ReadError("cut"), "GET", {}),
        (httpx.ReadError("cut"), "POST", {"Idempotency-Key": "k"}),
        (httpx.ConnectError("refused"), "POST", {}),
        (httpx.Response(429, headers={"Retry-After": "0"}), "GET", {}),
        (httpx.Response(503, headers={"Retry-After": "soon"}), "GET", {}),
    ],
    ids=["read", "write with a key", "never connected", "429", "503"],
)
async def test_what_is_safe_to_repeat_is_repeated(failure, method, headers):
    inner = Failing(failure)
    assert (await sent(inner, method, **headers)).status_code == 200
    assert inner.calls == 2


@pytest.mark.parametrize(
    ("failure", "method", "patience"),
    [
        (httpx.ReadError(""), "POST", 30),
        (httpx.ReadError("cut"), "GET", 0),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] no"), "GET", 30),
    ],
    ids=["write", "patience is over", "certificate"],
)
async def test_what_is_no_use_to_repeat_is_a_lost_connection(failure, method, patience):
    inner = Failing(failure)
    with pytest.raises(ConnectionLost):
        await sent(inner, method, patience)
    assert inner.calls == 1


def refusal(status, code):
    return httpx.Response(status, json={"error": True, "code": code, "detail": "for now"})


async def test_a_bridge_that_starts_again_may_take_time_to_have_its_endpoints():
    cut = httpx.ReadError("cut")
    passing = [refusal(404, "unknown_endpoint"), refusal(409, "request_in_flight")]
    inner = Failing(cut, *passing)
    assert (await sent(inner, "POST", **{"Idempotency-Key": "k"})).status_code == 200
    assert inner.calls == 4


@pytest.mark.parametrize(
    ("failures", "status"),
    [
        ([refusal(404, "unknown_endpoint")], 404),
        ([refusal(409, "request_in_flight")], 409),
        ([httpx.ReadError("cut"), refusal(404, "unknown_route")], 404),
        ([httpx.ReadError("cut"), refusal(403, "forbidden")], 403),
    ],
    ids=["no loss", "in flight without a loss", "another 404", "another refusal"],
)
async def test_a_refusal_that_a_loss_does_not_explain_is_returned(failures, status):
    reply = await sent(Failing(*failures), "GET")
    assert (reply.status_code, reply.json()["detail"]) == (status, "for now")


async def test_a_lost_connection_without_words_is_called_by_its_name():
    inner = Failing(httpx.ReadTimeout(""))
    async with AsyncBridgeClient.over(inner, "http://x") as client:
        with pytest.raises(ConnectionLost, match=r"^GET /endpoints: ReadTimeout$"):
            await client.request("GET", "/endpoints")


async def test_a_busy_answer_is_returned_when_patience_is_over():
    inner = Failing(httpx.Response(429, headers={"Retry-After": "60"}))
    assert (await sent(inner, "GET", 1.0)).status_code == 429


async def test_a_certificate_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be used"):
        async with AsyncBridgeClient("https://localhost", tmp_path / "nowhere.pem"):
            pass


async def test_a_plugins_own_client_class_is_found(tmp_path):
    targets = ["orbit_sysinfo.plugin:SysInfoPlugin"]
    async with (
        open_deployment(tmp_path, plugins={"node": ["sysinfo=" + targets[0]]}) as deployment,
        deployment.client() as client,
    ):
        plugin = await client.get_endpoint_client("node").get_plugin("sysinfo")
        assert type(plugin) is client_module.client_class("sysinfo")
        assert plugin.sid


def test_a_plugin_has_the_client_class_of_its_entry_point():
    class Unknown(Plugin):
        plugin_name = "unknown"

    sysinfo = Plugin.get_plugin_class("sysinfo")

    assert sysinfo.client_class is client_module.client_class("sysinfo")
    assert Unknown.client_class is PluginClient
    assert Plugin.client_class is None


async def blocking(deployment, work):
    """Run a test's blocking part in a thread, as a user's own program would."""
    token = await deployment.token(ALICE)

    def run():
        with BridgeClient(deployment.url, token=token) as client:
            return work(client)

    with anyio.fail_after(20):
        return await anyio.to_thread.run_sync(run)


async def test_the_blocking_client_has_the_same_methods(deployment):
    def work(client):
        node = client.get_endpoint_client("node")
        plugin = node.get_plugin("probe")
        assert node.name == "node"
        assert "blocking" in repr(plugin)
        with pytest.raises(UnknownRoute):
            plugin.get("nothing")
        with pytest.raises(AttributeError):
            _ = client._nothing
        return plugin.post("sink", {"a": 1}), b"".join(plugin.stream("source", parts=2))

    sunk, body = await blocking(deployment, work)
    assert sunk == {"size": 7}
    assert len(body) == 2 * 65536


async def test_blocking_events_and_callbacks_are_heard(deployment):
    def work(client):
        heard = []
        client.register_callback(None, None, None, lambda *found: heard.append(client.whoami()))
        client.wait_for_listener()
        events = client.events()
        kinds = [next(events).kind]
        client.request("POST", "/node/probe/notify", {"data": 1})
        kinds.append(next(events).kind)
        events.close()
        while not heard:
            client.whoami()
        return kinds, heard

    kinds, heard = await blocking(deployment, work)
    assert kinds == ["topology", "notification"]
    assert heard[0]["owner"] == "alice"


async def test_a_blocking_stream_that_fails_raises_its_error(deployment):
    def work(client):
        plugin = client.get_endpoint_client("node").get_plugin("probe")
        with pytest.raises(UnknownRoute):
            list(plugin.stream("nothing"))

    await blocking(deployment, work)


@pytest.mark.parametrize(
    ("settings", "left"),
    [({}, 0), ({"sid": "mine"}, 1), ({"lifetime": "persistent"}, 1)],
    ids=["opened", "attached", "persistent"],
)
async def test_a_session_ends_with_a_blocking_client_that_opened_it(deployment, settings, left):
    def work(client):
        notes = client.get_endpoint_client("desk").get_plugin("notes", **settings)
        assert len(notes.get("list_sessions")["sessions"]) == 1
        notes.close()
        return notes.get("list_sessions")["sessions"]

    async with deployment.endpoint("desk", [NOTES]):
        assert len(await blocking(deployment, work)) == left


async def test_closing_a_blocking_client_twice_does_nothing(deployment):
    await blocking(deployment, lambda client: client.close())


def test_a_bridge_that_nobody_named_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("ORBIT_URL", raising=False)
    with pytest.raises(ConfigError, match="no bridge is named"):
        BridgeClient()
