import json

import anyio
import pytest

from orbit_core import _http
from orbit_core._http import HttpProtocol
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
