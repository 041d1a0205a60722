import gc
import json
import weakref

import anyio
import pytest

from orbit_core import _http
from orbit_core._http import HttpProtocol
from orbit_core._server import SocketProtocol, serve
from orbit_core.config import BridgeConfig
from orbit_core.testing import open_deployment
from tests.asking import fault, opened
from tests.waiting import until

pytestmark = pytest.mark.anyio

GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"
LONG = b"x" * 1001
CHUNKED = b"POST /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def received(monkeypatch):
    """Make the limits small, and return a list to which the sizes of what is parsed are added."""
    monkeypatch.setattr(_http, "HEAD_LIMIT", 1000)
    monkeypatch.setattr(_http, "HEADER_LIMIT", 10)
    sizes = []
    parse = HttpProtocol.data_received

    def data_received(protocol, data):
        parse(protocol, data)
        sizes.append(len(data))

    monkeypatch.setattr(HttpProtocol, "data_received", data_received)
    return sizes


async def connected(deployment):
    return await anyio.connect_tcp("127.0.0.1", int(deployment.url.rpartition(":")[2]))


async def answer(deployment, received, *parts):
    """Send each part when the one before has been parsed; return status and document."""
    found = b""
    async with await connected(deployment) as stream:
        sent = 0
        for part in parts:
            await stream.send(part)
            sent += len(part)
            await until(lambda sent=sent: sum(received) == sent)
        with anyio.fail_after(10):
            try:
                async for chunk in stream:
                    found += chunk
            except anyio.BrokenResourceError:
                pass
    head, _, body = found[found.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head
    assert b"\r\ncontent-type: application/json" in head
    return int(head.split(b" ")[1]), json.loads(body)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([GET + b"X-Long: ", LONG], id="a value that does not end"),
        pytest.param([GET + b"X-Long: " + LONG + b"\r\n\r\n"], id="a value that ends"),
        pytest.param([GET, LONG, LONG], id="a name"),
        pytest.param([GET + b"X-Part: %s\r\n" % LONG[:150] * 8], id="headers in sum"),
        pytest.param([GET + b"A: b\r\n" * 10 + b"C: d\r\n\r\n"], id="headers in number"),
        pytest.param([b"GET /" + LONG], id="a target"),
        pytest.param([b"\r\n" * 501], id="empty lines"),
        pytest.param([CHUNKED + b"1;", LONG], id="a chunk's extension"),
        pytest.param([CHUNKED + b"0\r\nX: ", LONG], id="a trailer"),
    ],
)
async def test_a_head_over_the_limit_is_refused_before_anybody_is_asked(
    deployment, received, parts
):
    status, document = await answer(deployment, received, *parts)
    assert (status, document["status_code"], document["code"]) == (431, 431, "bad_request")
    assert document["detail"] == (
        "the head of this request is over 65536 bytes or 1000 headers: send less"
    )


async def test_a_head_within_the_limit_is_taken(deployment, received):
    head = GET + b"Connection: close\r\nX: " + LONG[:900] + b"\r\n\r\n"
    status, document = await answer(deployment, received, head)
    assert (status, document["status"]) == (200, "healthy")


async def test_each_request_on_a_connection_has_a_head_of_its_own(deployment, received):
    async with await connected(deployment) as stream:
        for _ in range(5):
            await stream.send(GET + b"X: " + LONG[:900] + b"\r\n\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")


async def test_a_body_is_no_head(deployment, received):
    async with deployment.client() as client:
        reply = await client.http.post("/node/probe/sink", content=bytes(3_000_000))
    assert reply.json() == {"size": 3_000_000}


async def test_what_is_no_http_is_answered_with_the_error_document(deployment, received):
    status, document = await answer(deployment, received, b"rubbish\r\n\r\n")
    assert (status, document) == (
        400,
        {
            "error": True,
            "status_code": 400,
            "detail": "this is no HTTP request",
            "code": "bad_request",
        },
    )


class Recording:
    """Be a transport, and keep what is written to it."""

    def __init__(self, transport, written):
        self.transport = transport
        self.written = written

    def __getattr__(self, name):
        return getattr(self.transport, name)

    def write(self, data):
        self.written.append(data)
        self.transport.write(data)


@pytest.fixture
def written(monkeypatch):
    """Return a list to which each write to a connection is added."""
    found = []
    connect = HttpProtocol.connection_made
    monkeypatch.setattr(
        HttpProtocol,
        "connection_made",
        lambda protocol, transport: connect(protocol, Recording(transport, found)),
    )
    return found


class Answering:
    """Answer with a head, and with a body when that is let go."""

    def __init__(self):
        self.is_free = anyio.Event()

    async def __call__(self, scope, receive, send):
        length = (b"content-length", b"4")
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        if not self.is_free.is_set():
            await self.is_free.wait()
        await send({"type": "http.response.body", "body": b"body"})


async def ask(url):
    stream = await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2]))
    await stream.send(GET + b"\r\n")
    return stream


async def test_a_head_leaves_with_the_body_that_follows_at_once(written):
    app = Answering()
    app.is_free.set()
    with anyio.fail_after(10):
        async with serve(app, BridgeConfig(port=0)) as url, await ask(url) as stream:
            found = await stream.receive()
    assert found.endswith(b"\r\n\r\nbody")
    assert written == [found]


async def test_a_head_does_not_wait_for_a_body_that_comes_later():
    app = Answering()
    with anyio.fail_after(10):
        async with serve(app, BridgeConfig(port=0)) as url, await ask(url) as stream:
            assert (await stream.receive()).endswith(b"\r\n\r\n")
            app.is_free.set()
            assert await stream.receive() == b"body"


async def test_a_body_that_waits_to_be_asked_for_is_asked_for(deployment):
    token = await deployment.token()
    head = b"POST /node/probe/sink HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
    async with await connected(deployment) as stream:
        await stream.send(head % token.encode() + b"Expect: 100-continue\r\n")
        await stream.send(b"Content-Length: 4\r\n\r\n")
        assert await stream.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stream.send(b"body")
        answer = await stream.receive()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'{"size":4}')


async def test_a_bridge_with_too_many_connections_says_so(tmp_path):
    config = BridgeConfig(port=0, plugins=[], max_connections=2)
    async with open_deployment(tmp_path, config=config) as deployment, opened(deployment) as client:
        assert (await client.get("/health")).status_code == 200
        async with opened(deployment) as other:
            reply = await other.get("/health")
        assert fault(reply) == (
            503,
            "unavailable",
            "this bridge has as many connections as it takes: wait",
        )
        assert reply.headers["Retry-After"] == "1"


HANDSHAKE = (
    b"GET /register HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"X: %s\r\n\r\n" % bytes([97] * 9000), id="a long line"),
        pytest.param(b"X: y\r\n" * 200 + b"\r\n", id="many lines"),
    ],
)
async def test_a_handshake_that_is_none_is_refused_at_once(deployment, rest):
    assert await refusal(deployment, HANDSHAKE + rest) == "this is no HTTP request"


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"Content-Length: 5\r\n\r\nhello", id="a body"),
        pytest.param(b"Content-Length: 5\r\n\r\n", id="a body that does not come"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n", id="a body in chunks"),
    ],
)
async def test_a_request_for_another_protocol_has_no_body(deployment, protocol, rest):
    head = HANDSHAKE.replace(b"websocket", protocol)
    assert await refusal(deployment, head + rest) == (
        "a request with a body cannot ask for another protocol: leave out Upgrade"
    )


async def test_a_request_may_offer_a_protocol_that_is_not_spoken(deployment):
    async with deployment.client() as client:
        offer = {"Upgrade": "h2c", "Connection": "Upgrade"}
        reply = await client.http.get("/node/probe/echo", headers=offer)
    assert reply.json()["method"] == "GET"


async def refusal(deployment, request):
    """Return why a request is answered with 400."""
    async with await connected(deployment) as stream:
        await stream.send(request)
        with anyio.fail_after(10):
            reply = b"".join([part async for part in stream])
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    return json.loads(body)["detail"]


@pytest.mark.parametrize("kind", [HttpProtocol, SocketProtocol])
async def test_a_connection_that_is_gone_stays_in_memory_no_longer(deployment, kind):
    gc.collect()
    gc.disable()
    try:
        before = {id(one) for one in living(kind)}
        async with deployment.endpoint("other"), deployment.client() as client:
            await client.list_endpoints()
            found = [weakref.ref(one) for one in living(kind) if id(one) not in before]
        assert found
        await until(lambda: all(one() is None for one in found))
    finally:
        gc.enable()


def living(kind):
    return [one for one in gc.get_objects() if isinstance(one, kind)]
