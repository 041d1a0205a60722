import json
import weakref

import anyio
import pytest

from orbit_core import _events
from orbit_core._events import EventRing, Filter
from orbit_core.config import BridgeConfig
from orbit_core.models import Notification
from orbit_core.testing import ADMIN, ALICE, BOB, open_deployment
from tests.hub_plugins import EARLY
from tests.offering import offer
from tests.probe_plugin import PROBE, notify, probe_of
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Listening:
    """Read one event stream, event by event."""

    def __init__(self, response):
        self.chunks = response.aiter_text()
        self.text = ""

    async def frame(self):
        with anyio.fail_after(5):
            while "\n\n" not in self.text:
                self.text += await anext(self.chunks)
        frame, self.text = self.text.split("\n\n", 1)
        return dict(line.split(": ", 1) for line in frame.splitlines() if line[0] != ":")

    async def event(self, kind="notification"):
        while True:
            frame = await self.frame()
            document = json.loads(frame.get("data", "{}"))
            if document.get("topic") == kind:
                return frame.get("id"), document["data"]


def listen(client, last=None, **parameters):
    headers = {"Last-Event-ID": last} if last else {}
    return client.http.stream("GET", "/events", params=parameters, headers=headers)


async def arrived(deployment, count):
    await until(lambda: deployment.bridge.ring.end >= count)


async def test_the_topology_comes_first(client):
    async with listen(client) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        frame = await Listening(response).frame()
    document = json.loads(frame["data"])
    assert document["topic"] == "topology"
    assert list(document["data"]["endpoints"]) == ["node"]


async def test_a_notification_has_the_documented_frame(client):
    async with listen(client) as response:
        stream = Listening(response)
        await stream.frame()
        await notify(client, {"n": 1})
        identity, data = await stream.event()
    assert identity
    assert {key: data[key] for key in ("endpoint", "plugin", "topic", "data", "seq")} == {
        "endpoint": "node", "plugin": "probe", "topic": "news", "data": {"n": 1}, "seq": 1,
    }  # fmt: skip


async def test_a_listener_that_only_heard_the_topology_hears_what_it_missed(deployment, client):
    async with listen(client) as response:
        last, _ = await Listening(response).event("topology")
    await notify(client, 1)
    await arrived(deployment, 1)
    async with listen(client, last) as response:
        stream = Listening(response)
        again, _ = await stream.event("topology")
        _, data = await stream.event()
    assert again == last
    assert data["data"] == 1


async def test_a_topology_after_a_notification_does_not_take_its_listener_back(deployment, client):
    async with listen(client, topic="other") as response:
        stream = Listening(response)
        first, _ = await stream.event("topology")
        await notify(client, 1)
        async with deployment.endpoint("second"):
            second, _ = await stream.event("topology")
    assert (first[-2:], second[-2:]) == ("-0", "-1")


async def test_a_change_of_the_topology_is_told(deployment, client):
    async with listen(client) as response:
        stream = Listening(response)
        await stream.frame()
        async with deployment.endpoint("second", [PROBE]):
            while True:
                _, data = await stream.event("topology")
                if "second" in data["endpoints"]:
                    break


async def test_a_listener_that_comes_back_hears_what_it_missed_once(deployment, client):
    async with listen(client) as response:
        stream = Listening(response)
        await stream.frame()
        await notify(client, 1)
        last, _ = await stream.event()
    for number in (2, 3):
        await notify(client, number)
    await arrived(deployment, 3)
    async with listen(client, last) as response:
        stream = Listening(response)
        found = [(await stream.event())[1]["data"] for _ in range(2)]
        await notify(client, 4)
        found.append((await stream.event())[1]["data"])
    assert found == [2, 3, 4]


async def test_the_last_event_id_may_come_as_a_parameter(deployment, client):
    await notify(client, 1)
    await arrived(deployment, 1)
    epoch = deployment.bridge.ring._epoch.decode()
    async with listen(client, last_event_id=f"{epoch}-0") as response:
        assert (await Listening(response).event())[1]["data"] == 1


@pytest.mark.parametrize("last", ["other-5", "nonsense", "-", "x-²"])
async def test_an_id_of_another_time_brings_a_gap(client, last):
    async with listen(client, last_event_id=last) as response:
        stream = Listening(response)
        topology = await stream.frame()
        present, gap = await stream.event("gap")
    assert gap["lost"] is None
    assert "id" not in topology
    async with listen(client, present) as response:
        stream = Listening(response)
        assert (await stream.event("topology"))[0] == present
        await notify(client, 1)
        assert (await stream.event())[1]["data"] == 1


async def test_what_the_ring_no_longer_holds_is_a_counted_gap(tmp_path):
    config = BridgeConfig(port=0, plugins=[], event_ring_bytes=1000)
    async with (
        open_deployment(tmp_path, plugins={"node": [PROBE]}, config=config) as deployment,
        deployment.client() as client,
    ):
        for number in range(20):
            await notify(client, number)
        await arrived(deployment, 20)
        last = f"{deployment.bridge.ring._epoch.decode()}-1"
        async with listen(client, last) as response:
            stream = Listening(response)
            told, gap = await stream.event("gap")
            _, first = await stream.event()
    assert gap["lost"] == first["data"] - 1
    assert gap["resumes_after"] == first["data"]
    assert told == last.removesuffix("1") + str(gap["resumes_after"])


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"topic": "a"}, ["one"]),
        ({"plugin": "probe"}, ["one", "two"]),
        ({"plugin": "other"}, []),
        ({"endpoint": "node", "topic": "b"}, ["two"]),
        ({"endpoint": "elsewhere"}, []),
    ],
    ids=["topic", "plugin", "other plugin", "endpoint and topic", "other endpoint"],
)
async def test_a_listener_hears_only_what_it_asked_for(client, wanted, expected):
    async with listen(client, **wanted) as response, listen(client) as complete:
        stream, everything = Listening(response), Listening(complete)
        await stream.frame()
        await everything.frame()
        for data, topic in (("one", "a"), ("two", "b")):
            await notify(client, data, topic)
            await everything.event()
        found = [(await stream.event())[1]["data"] for _ in expected]
    assert found == expected
    assert stream.text == ""


@pytest.mark.parametrize(
    ("principal", "expected"),
    [
        (ALICE, ["hers", "her endpoint's", "everybody's"]),
        (BOB, ["everybody's"]),
        (ADMIN, ["hers", "her endpoint's", "everybody's"]),
    ],
    ids=["owner", "somebody else", "administrator"],
)
async def test_an_owners_notifications_are_hers_and_the_administrators(
    deployment, client, principal, expected
):
    async with (
        deployment.endpoint("open", [PROBE], shared=True),
        deployment.client(principal) as other,
        listen(other) as response,
    ):
        stream = Listening(response)
        await stream.frame()
        await notify(client, "hers", owner="alice", endpoint="open")
        await notify(client, "her endpoint's")
        await notify(client, "everybody's", endpoint="open")
        found = [(await stream.event())[1]["data"] for _ in expected]
    assert found == expected


@pytest.mark.parametrize(
    "last", ["9" * 5000, "9" * 19, "-1", "+1", "\u0661", ""], ids=lambda last: last[:5] or "empty"
)
async def test_an_id_that_is_none_is_a_gap(last):
    events = ring()
    position = events._epoch.decode()

    frames = await anext(events.listen(Filter(ADMIN), f"{position}-{last}"))

    assert b'"topic": "gap", "data": {"lost": null, "resumes_after": 0}' in frames


async def test_a_head_request_for_the_events_ends(client):
    with anyio.fail_after(5):
        response = await client.http.head("/events")
    assert (response.status_code, response.content) == (200, b"")


async def test_a_listener_that_leaves_is_forgotten(deployment, client):
    async with listen(client) as response:
        await Listening(response).frame()
        assert len(deployment.bridge.listeners) == 1
    await until(lambda: not deployment.bridge.listeners)
    await until(lambda: not deployment.bridge.ring.listeners)


def ring(max_bytes=10_000, max_seconds=60.0):
    return EventRing(max_bytes, max_seconds, lambda: {"endpoints": {}})


def news(data):
    return Notification("node", "probe", "news", data)


async def test_a_silent_time_brings_comments(monkeypatch):
    monkeypatch.setattr(_events, "KEEP_ALIVE", 0.01)
    events = ring().listen(Filter(ADMIN), None)
    with anyio.fail_after(5):
        await anext(events)
        assert await anext(events) == b": keep-alive\n\n"
        assert await anext(events) == b": keep-alive\n\n"
    await events.aclose()


async def test_an_event_larger_than_the_ring_is_a_gap_and_ends_nothing():
    found = ring(max_bytes=300)
    events = found.listen(Filter(ADMIN), None)
    await anext(events)
    found.append(news("x" * 1000))
    with anyio.fail_after(5):
        assert b'"lost": 1' in await anext(events)
        found.append(news("small"))
        assert b"small" in await anext(events)
    await events.aclose()


async def test_the_ring_keeps_an_events_bytes_alone():
    class Data(list):
        pass

    found, data = ring(), Data()
    kept = weakref.ref(data)
    found.append(news(data))
    del data
    assert kept() is None


async def test_an_old_event_leaves_the_ring():
    found = ring(max_seconds=-1.0)
    found.append(news(1))
    events = found.listen(Filter(ADMIN), f"{found._epoch.decode()}-0")
    await anext(events)
    with anyio.fail_after(5):
        assert b'"gap"' in await anext(events)
    await events.aclose()


async def test_more_events_than_a_batch_all_arrive_in_order():
    found = ring(max_bytes=10_000_000)
    for number in range(2000):
        found.append(news(number))
    events = found.listen(Filter(ADMIN, topic="news"), f"{found._epoch.decode()}-0")
    text = b""
    with anyio.fail_after(5):
        while text.count(b"\nid: ") + text.startswith(b"id: ") < 1999:
            text += await anext(events)
    numbers = [
        json.loads(line[6:])["data"]["data"]
        for line in text.splitlines()
        if b'"notification"' in line
    ]
    assert numbers == list(range(2000))
    await events.aclose()


async def test_a_plugin_whose_listening_stalls_begins_anew_and_misses_nothing(
    deployment, client, monkeypatch
):
    monkeypatch.setattr("orbit_core._event_stream.STALLED", 0.2)
    hub = probe_of(deployment.endpoints["node"]).context.hub
    events = hub.events(topic="news")
    await anext(events)
    for number in range(5):
        await notify(client, [number, "x" * 1_000_000])
    await until(lambda: not deployment.bridge.ring.listeners)
    found = []
    with anyio.fail_after(20):
        while len(found) < 5:
            event = await anext(events)
            if event.kind == "notification":
                found.append(event.data["data"][0])
    await events.aclose()
    assert found == list(range(5))


async def test_a_plugin_of_the_bridge_is_heard_and_hears_from_its_start(tmp_path, monkeypatch):
    offer(tmp_path, monkeypatch, f"[orbit.plugins]\nearly = {EARLY}\nprobe = {PROBE}\n")
    config = BridgeConfig(port=0, plugins=["early", "probe"])
    async with open_deployment(tmp_path, plugins={"node": [PROBE]}, config=config) as deployment:
        served = deployment.bridge.host.plugins.served
        hub = served["probe"].plugin.context.hub
        with anyio.fail_after(10):
            await served["early"].plugin.answered.wait()
            async with hub.http.stream("GET", "/node/probe/trickle") as reply:
                assert await anext(reply.aiter_bytes()) == b"part\n"
            async with listen(hub, f"{deployment.bridge.ring._epoch.decode()}-0") as reply:
                _, loaded = await Listening(reply).event()
    assert served["early"].plugin.endpoints == ["bridge"]
    assert (loaded["endpoint"], loaded["data"]) == ("bridge", "loaded")


async def test_a_stalled_listener_is_cut_and_others_hear_on(tmp_path, monkeypatch):
    monkeypatch.setattr("orbit_core._event_stream.STALLED", 0.2)
    async with (
        open_deployment(tmp_path, plugins={"node": [PROBE]}) as deployment,
        deployment.client() as client,
        await anyio.connect_tcp("127.0.0.1", int(deployment.url.rpartition(":")[2])) as stalled,
    ):
        token = await deployment.token()
        head = f"GET /events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        await stalled.send(head.encode())
        await until(lambda: deployment.bridge.listeners)
        with anyio.fail_after(20):
            while deployment.bridge.listeners:
                await notify(client, "x" * 1_000_000)
        async with listen(client) as response:
            assert await Listening(response).frame()
