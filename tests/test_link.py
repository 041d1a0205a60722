import logging
import time
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import JSONResponse, Response

from orbit_core import _carrier, _link
from orbit_core._carrier import HELD_LIMIT
from orbit_core._frames import (
    CHUNK,
    Kind,
    ResponseHead,
    frame_header,
    message_header,
    pack_count,
    pack_request,
    pack_response,
    split_message,
)
from orbit_core._link import CALL_LIMIT, FEW, UNACKNOWLEDGED_LIMIT, Link
from orbit_core._messages import UNACKNOWLEDGED_HIGH
from orbit_core._stream import WINDOW
from orbit_core.errors import (
    ConnectionLost,
    DeadlineExceeded,
    EndpointLost,
    InternalError,
    OrbitError,
    TooManyCalls,
)
from tests.linking import Pair, Wire, echo, head, whole, wires
from tests.waiting import until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def pair(app=None):
    async with anyio.create_task_group() as group:
        found = Pair(group, app or echo)
        found.connect()
        await until(lambda: found.endpoint.is_attached and found.bridge.is_attached)
        with anyio.fail_after(20):
            yield found
        group.cancel_scope.cancel()


async def never(scope, receive, send):
    await anyio.sleep_forever()


LARGE = bytes(CHUNK)


async def large(scope, receive, send):
    await Response(LARGE)(scope, receive, send)


def message(*frames, received=0):
    return message_header(received) + b"".join(frames)


def frame(kind, stream, payload, fin=False):
    return frame_header(kind, stream, len(payload), fin=fin) + payload


@pytest.mark.parametrize("side", ["bridge", "endpoint"])
async def test_either_side_calls_the_other(side):
    async with pair() as links:
        stream = getattr(links, side).call(head(), b"body", fin=True)
        answer = await stream.response()
        assert (answer.status, list(answer.headers)) == (200, [(b"a", b"b")])
        assert await whole(stream) == b"body"
        await until(lambda: not links.bridge.streams and not links.endpoint.served)


async def test_a_handler_sees_the_request_as_it_was_made():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope)
        await JSONResponse({})(scope, receive, send)

    async with pair(app) as links:
        meta = {"principal": ("alice", "client", None)}
        await whole(links.bridge.call(head(b"/a%20b?c=d", meta), b"", fin=True))
    (scope,) = seen
    assert (scope["method"], scope["path"], scope["raw_path"]) == ("POST", "/a b", b"/a%20b")
    assert (scope["query_string"], list(scope["headers"])) == (b"c=d", [(b"x-one", b"1")])
    assert scope["orbit.principal"].owner == "alice"


@pytest.mark.parametrize("size", [CHUNK, WINDOW + 1, 3 * WINDOW])
async def test_bodies_of_any_size_stream_both_ways(size):
    async with pair() as links:
        stream = links.bridge.call(head(), b"", fin=False)
        found = []

        async def read():
            found.append(await whole(stream))

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await stream.write(b"z" * size, fin=True)
        assert len(found[0]) == size


async def test_a_sender_is_never_more_than_the_window_ahead():
    sent = 0

    async def app(scope, receive, send):
        nonlocal sent
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send({"type": "http.response.body", "body": bytes(CHUNK), "more_body": True})
            sent += CHUNK

    async with pair(app) as links:
        stream = links.bridge.call(head(), b"", fin=True)
        await until(lambda: sent == WINDOW)
        other = links.bridge.call(head(), b"", fin=True)
        await other.response()
        assert sent <= 2 * WINDOW
        stream.cancel(ConnectionLost("enough"))
        other.cancel(ConnectionLost("enough"))


async def test_cancelling_a_call_cancels_its_handler_and_tells_why():
    ended = []

    async def app(scope, receive, send):
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async with pair(app) as links:
        stream = links.bridge.call(head(), b"", fin=True)
        await until(lambda: links.endpoint.served)
        (served,) = links.endpoint.served.values()
        stream.cancel(ConnectionLost("the client left"))
        await until(lambda: ended)
        assert isinstance(served.error, ConnectionLost)
        with pytest.raises(ConnectionLost, match="the client left"):
            await stream.response()
        stream.cancel(ConnectionLost("again"))
        assert not links.endpoint.served


async def test_a_call_that_is_cancelled_at_once_reaches_no_handler():
    entered = []

    async def app(scope, receive, send):
        entered.append(scope["path"])
        await echo(scope, receive, send)

    async with pair(app) as links:
        links.bridge.call(head(b"/first"), b"", fin=True).cancel(ConnectionLost("it left"))
        await whole(links.bridge.call(head(b"/next"), b"", fin=True))
    assert entered == ["/next"]


async def test_a_call_without_a_sign_of_an_answer_ends_at_its_deadline():
    async def app(scope, receive, send):
        await anyio.sleep_forever()

    async with pair(app) as links:
        slow = links.bridge.call(head(), b"", fin=True, deadline=1e-9)
        patient = links.bridge.call(head(), b"", fin=True, deadline=100)
        await until(lambda: time.monotonic() > slow.progress + 1e-9)
        links.bridge.expire(lambda seconds: DeadlineExceeded(f"after {seconds:g} s"))
        with pytest.raises(DeadlineExceeded, match="after 1e-09 s"):
            await slow.response()
        assert patient.error is None


async def test_one_call_too_many_is_refused_at_once():
    async with anyio.create_task_group() as group:
        link = Link(echo, group, lambda kind, payload: None, first_id=2)
        for _ in range(CALL_LIMIT):
            link.call(head(), b"", fin=True)
        with pytest.raises(TooManyCalls) as told:
            link.call(head(), b"", fin=True)
        assert told.value.retry_after == 1.0


async def test_one_served_call_too_many_is_refused_to_the_peer(monkeypatch):
    async def app(scope, receive, send):
        await anyio.sleep_forever()

    async with pair(app) as links:
        for _ in range(CALL_LIMIT):
            links.bridge.call(head(), b"", fin=True)
        await until(lambda: len(links.endpoint.served) == CALL_LIMIT)
        monkeypatch.setattr(_link, "CALL_LIMIT", CALL_LIMIT + 1)
        stream = links.bridge.call(head(), b"", fin=True)
        monkeypatch.setattr(_link, "CALL_LIMIT", CALL_LIMIT)
        with pytest.raises(TooManyCalls):
            await stream.response()


async def boom(scope, receive, send):
    raise RuntimeError("secret")


async def typed(scope, receive, send):
    raise EndpointLost("gone")


async def silent(scope, receive, send):
    pass


async def half(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"part", "more_body": True})


@pytest.mark.parametrize(
    ("app", "kind", "text"),
    [
        (boom, InternalError, "the handler failed"),
        (typed, EndpointLost, "gone"),
        (silent, InternalError, "gave no whole answer"),
        (half, InternalError, "gave no whole answer"),
    ],
    ids=["raises", "raises typed", "answers nothing", "answers half"],
)
async def test_a_handler_that_fails_ends_its_call_typed_and_no_other(app, kind, text, caplog):
    async with pair(app) as links:
        for _ in range(2):
            with pytest.raises(kind, match=text) as told:
                await whole(links.bridge.call(head(), b"", fin=True))
            assert "secret" not in str(told.value)


@pytest.mark.parametrize("stamp", ["x", ("a", "king", None), (1, 2), 7])
async def test_a_stamp_that_is_none_ends_the_call_and_not_the_link(stamp):
    async with pair() as links:
        with pytest.raises(InternalError):
            await whole(links.endpoint.call(head(meta={"principal": stamp}), b"", fin=True))
        assert await whole(links.endpoint.call(head(), b"on", fin=True)) == b"on"


async def test_an_answer_may_come_before_the_request_was_taken():
    async def app(scope, receive, send):
        await Response(b"early")(scope, receive, send)

    async with pair(app) as links:
        stream = links.bridge.call(head(), b"", fin=False)
        assert await whole(stream) == b"early"
        with pytest.raises(OrbitError):
            await stream.write(bytes(3 * WINDOW), fin=True)
        await until(lambda: not links.bridge.streams)


async def test_a_cut_loses_nothing_and_repeats_nothing():
    async with pair() as links:
        for number in range(50):
            links.endpoint.send(Kind.EVENT, 0, b"%d" % number)
            if number % 7 == 3:
                await links.reconnect()
            await anyio.lowlevel.checkpoint()
        await until(lambda: len(links.heard) >= 50)
        assert [payload for _, payload in links.heard] == [b"%d" % number for number in range(50)]


async def test_a_call_goes_on_over_the_next_socket():
    async with pair() as links:
        stream = links.bridge.call(head(), b"one", fin=False)
        await stream.response()
        links.bridge.cut()
        await until(lambda: not links.endpoint.is_attached)
        await stream.write(b"two", fin=True)
        links.connect()
        assert await whole(stream) == b"onetwo"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["event", "call", "cut", "turn"]), max_size=40), st.integers(1, 3))
def test_whatever_is_cut_everything_arrives_once_and_in_order(steps, size):
    async def scenario():
        async with pair() as links:
            events, streams = 0, []
            for step in steps:
                match step:
                    case "event":
                        links.endpoint.send(Kind.EVENT, 0, b"%d" % events)
                        events += 1
                    case "call":
                        streams.append(links.bridge.call(head(), b"%d" % len(streams), fin=True))
                    case "cut":
                        await links.reconnect(size)
                    case "turn":
                        await anyio.lowlevel.checkpoint()
            answers = [await whole(stream) for stream in streams]
            await until(lambda: len(links.heard) >= events)
            assert answers == [b"%d" % number for number in range(len(streams))]
            assert [payload for _, payload in links.heard] == [b"%d" % n for n in range(events)]
            await until(lambda: not links.endpoint.served and not links.bridge.streams)

    anyio.run(scenario)


async def test_what_arrived_is_acknowledged_and_dropped():
    async with pair() as links:
        for number in range(200):
            links.endpoint.send(Kind.EVENT, 0, b"%d" % number)
            await anyio.lowlevel.checkpoint()
        await until(lambda: len(links.heard) == 200)
        await until(lambda: len(links.endpoint._carrier._messages._unacknowledged) < 64)


async def test_a_new_link_ends_the_calls_and_forgets_what_waits():
    async with pair() as links:
        links.endpoint.cut()
        await until(lambda: not links.bridge.is_attached)
        stream = links.bridge.call(head(), b"x", fin=True)
        links.bridge.reset(EndpointLost("restarted"))
        links.endpoint.reset(EndpointLost("restarted"))
        with pytest.raises(EndpointLost, match="restarted"):
            await stream.response()
        links.connect()
        assert await whole(links.bridge.call(head(), b"new", fin=True)) == b"new"


async def test_what_was_never_sent_is_sent_on_a_new_link_behind_its_hello():
    async with anyio.create_task_group() as group:
        links = Pair(group, echo)
        links.endpoint.send_event(b"one")
        unsent = links.endpoint.call(head(), b"", fin=False)
        await unsent.write(b"body", fin=True)
        left = links.endpoint.call(head(), b"left", fin=True)
        left.cancel(ConnectionLost("the caller left"))
        links.endpoint.send(Kind.SHUTDOWN, 0, b"")
        links.endpoint.renew(ConnectionLost("restarted"), b"hello")
        links.connect()
        with anyio.fail_after(5):
            assert await whole(unsent) == b"body"
        assert links.heard == [(Kind.HELLO, b"hello"), (Kind.EVENT, b"one")]
        group.cancel_scope.cancel()


async def test_a_call_that_was_sent_ends_when_the_link_begins_anew():
    async with pair(never) as links:
        sent = links.endpoint.call(head(), b"", fin=True)
        await until(lambda: links.bridge.served)
        links.endpoint.cut()
        unsent = links.endpoint.call(head(), b"", fin=True)
        links.endpoint.renew(ConnectionLost("restarted"), b"hello")
        with pytest.raises(ConnectionLost, match="restarted"):
            await sent.response()
        assert unsent.error is None


async def test_a_handler_of_an_ended_call_cannot_answer_a_later_one():
    told = []

    async def app(scope, receive, send):
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                try:
                    await send({"type": "http.response.start", "status": 200})
                    await send({"type": "http.response.body", "body": b"late"})
                except OrbitError as error:
                    told.append(error)

    async with pair(app) as links:
        links.bridge.call(head(), b"", fin=True)
        await until(lambda: links.endpoint.served)
        links.endpoint.reset(ConnectionLost("the bridge was restarted"))
        await until(lambda: told)
        assert not links.endpoint._carrier._messages._queue


async def test_notifications_are_refused_when_megabytes_wait():
    async with anyio.create_task_group() as group:
        link = Link(echo, group, lambda kind, payload: None, first_id=1)
        assert link.send_event(bytes(UNACKNOWLEDGED_LIMIT))
        assert not link.send_event(b"more")


async def test_a_call_is_refused_when_megabytes_wait():
    async with anyio.create_task_group() as group:
        link = Link(echo, group, lambda kind, payload: None, first_id=1)
        link.send_event(bytes(UNACKNOWLEDGED_LIMIT))
        with pytest.raises(TooManyCalls, match="too much waits"):
            link.call(head(), b"", fin=True)


class Mute:
    """Be a peer that takes all there is and acknowledges nothing."""

    def __init__(self, link, group):
        near, self.wire = wires()
        self.taken = 0
        self.kinds = set()
        self.wire.listen(self.take, lambda: None)
        group.start_soon(link.run, near, 0)

    def take(self, found):
        self.taken += len(found)
        self.kinds.update(frame.kind for frame in split_message(found)[1])

    def say(self, *frames, received=0):
        self.wire.write(message(*frames, received=received))


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.RESPONSE])
async def test_a_body_waits_for_a_peer_that_gives_credit_but_acknowledges_nothing(kind):
    async with anyio.create_task_group() as group:
        link = Link(large, group, lambda kind, payload: None, first_id=2)
        peer = Mute(link, group)
        ids = range(1, 2 * 512, 2)
        if kind is Kind.RESPONSE:
            peer.say(*[frame(Kind.OPEN, n, pack_request(head(), b""), fin=True) for n in ids])
        else:
            for _ in ids:
                stream = link.call(head(), b"", fin=False)
                group.start_soon(partial(stream.write, LARGE, fin=True))
        await until(lambda: peer.taken > UNACKNOWLEDGED_HIGH)
        await anyio.wait_all_tasks_blocked()
        assert link._carrier._messages.held < UNACKNOWLEDGED_HIGH + 2**21 + 2**20
        assert not link.is_broken
        peer.say(received=len(link._carrier._messages._unacknowledged))
        before = peer.taken
        await until(lambda: peer.taken > before)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("attached", [True, False])
async def test_a_link_is_given_up_when_too_much_waits_for_the_peer(attached, caplog):
    async with anyio.create_task_group() as group:
        link = Link(echo, group, lambda kind, payload: None, first_id=2)
        peer = Mute(link, group) if attached else None
        for _ in range(HELD_LIMIT // 2**20):
            link.send(Kind.TOPOLOGY, 0, bytes(2**20))
            await anyio.lowlevel.checkpoint()
        assert link.is_broken
        assert link._carrier._messages.held < 2**21
        assert peer is None or peer.wire.is_closed
        group.cancel_scope.cancel()
    assert "giving up a link" in caplog.text


@pytest.mark.parametrize(("calls", "at_once"), [(0, 1), (FEW, 1), (FEW + 1, 0)])
async def test_the_first_frame_of_a_turn_goes_at_once_where_few_calls_are(calls, at_once):
    async with pair(never) as links:
        for _ in range(calls):
            links.endpoint.call(head(), b"", fin=True)
        await anyio.wait_all_tasks_blocked()
        _, far = links.wires
        far.is_held = True
        for number in range(3):
            links.endpoint.send(Kind.EVENT, 0, str(number).encode())
        assert len(far.waiting) == at_once
        await anyio.wait_all_tasks_blocked()
        assert len(far.waiting) == at_once + 1
        far.is_held = False
        far.flow()
        assert [payload for _, payload in links.heard] == [b"0", b"1", b"2"]


async def test_flushing_waits_until_the_socket_has_everything():
    async with pair() as links:
        near, far = links.wires
        near.size, far.is_held = 1, True
        links.endpoint.send(Kind.EVENT, 0, b"first")
        await until(lambda: near.is_busy)
        links.endpoint.send(Kind.EVENT, 0, b"last")
        async with anyio.create_task_group() as group:
            group.start_soon(links.endpoint.flush)
            group.start_soon(links.endpoint.flush)
            await anyio.wait_all_tasks_blocked()
            assert far.waiting
            far.is_held = False
            far.flow()
        await until(lambda: len(links.heard) == 2)
        links.endpoint.cut()
        await links.endpoint.flush()


async def test_the_room_of_a_socket_that_was_left_is_none_of_the_next_one():
    async with pair() as links:
        left, _ = links.wires
        await links.reconnect(size=0)
        links.endpoint.send(Kind.EVENT, 0, b"waits")
        await anyio.wait_all_tasks_blocked()
        stall = links.endpoint._carrier._stall
        assert stall is not None
        left.resume()
        assert links.endpoint._carrier._stall is stall


async def test_an_empty_part_that_ends_nothing_is_not_sent():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        for body in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body"})

    async with pair(app) as links:
        stream = links.bridge.call(head(), b"", fin=True)
        await stream.response()
        assert [await stream.read() for _ in range(3)] == [b"one", b"two", b""]


async def test_a_socket_that_takes_nothing_is_cut(monkeypatch):
    monkeypatch.setattr(_carrier, "STALL", 0.05)
    async with anyio.create_task_group() as group:
        link = Link(echo, group, lambda kind, payload: None, first_id=1)
        near, _ = wires(size=0)
        link.send(Kind.EVENT, 0, b"x")
        with anyio.fail_after(5):
            await link.run(near, 0)
        assert near.is_closed


async def test_a_socket_that_still_moves_is_not_cut(monkeypatch):
    class SlowWire(Wire):
        unsent = property(lambda self: left.pop(0))

    left = [9, 8, 7, 7]
    monkeypatch.setattr(_carrier, "STALL", 0.01)
    async with anyio.create_task_group() as group:
        link = Link(echo, group, lambda kind, payload: None, first_id=1)
        near, far = SlowWire(0), Wire(0)
        near.peer, far.peer = far, near
        link.send(Kind.EVENT, 0, b"x")
        with anyio.fail_after(5):
            await link.run(near, 0)
    assert left == []


RESPONSE = pack_response(ResponseHead(200, []), b"")


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([frame(Kind.OPEN, 2, pack_request(head(), b""))], id="an id of ours"),
        pytest.param([frame(Kind.OPEN, 1, pack_request(head(), b""))] * 2, id="an id twice"),
        pytest.param([frame(Kind.OPEN, 1, b"rubbish")], id="no request"),
        pytest.param([frame(Kind.RESPONSE, 2, RESPONSE)] * 2, id="two responses"),
        pytest.param([frame(Kind.RESPONSE, 2, b"")], id="no response"),
        pytest.param([frame(Kind.DATA, 2, bytes(WINDOW + CHUNK + 1))], id="over the window"),
        pytest.param(
            [frame(Kind.DATA, 2, b"", fin=True), frame(Kind.DATA, 2, b"x")], id="past end"
        ),
        pytest.param([frame(Kind.CREDIT, 2, b"x")], id="no count"),
        pytest.param([frame(Kind.CANCEL, 2, b"\xc1")], id="no reason"),
        pytest.param([b"short"], id="no frame"),
    ],
)
async def test_a_peer_that_breaks_the_protocol_is_cut(frames, caplog):
    async with anyio.create_task_group() as group:
        link = Link(echo, group, lambda kind, payload: None, first_id=2)
        link.call(head(), b"", fin=False)
        near, far = wires()
        far.peer.waiting.append(message(*frames))
        with anyio.fail_after(5):
            await link.run(near, 0)
        assert link.is_broken
        assert near.is_closed
        group.cancel_scope.cancel()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("received", [1, 2**63])
async def test_a_peer_that_acknowledges_what_was_never_sent_is_cut(received):
    async with anyio.create_task_group() as group:
        link = Link(echo, group, lambda kind, payload: None, first_id=2)
        near, _ = wires()
        near.waiting.append(message(received=received))
        await link.run(near, 0)
        assert link.is_broken
        again, _ = wires()
        await link.run(again, received)
        assert again.is_closed


@pytest.mark.parametrize("kind", [Kind.RESPONSE, Kind.DATA, Kind.CREDIT, Kind.CANCEL, 99])
async def test_a_late_or_unknown_frame_is_ignored(kind):
    async with pair() as links:
        payload = {Kind.RESPONSE: RESPONSE, Kind.CREDIT: pack_count(1)}.get(kind, b"x")
        links.endpoint.send(kind, 4, payload)
        assert await whole(links.endpoint.call(head(), b"on", fin=True)) == b"on"
        assert not links.bridge.is_broken


async def test_a_single_message_is_acknowledged_before_long(monkeypatch):
    monkeypatch.setattr(_carrier, "ACK_DELAY", 0.01)
    async with pair() as links:
        links.bridge.send_event(b"news")
        await until(lambda: links.heard)
        await until(lambda: not links.bridge._carrier._messages._unacknowledged)
