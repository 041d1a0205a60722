import math
import socket
import ssl
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
import trustme
from websockets.frames import Frame, Opcode

from orbit_core import _http, _proxy, _server
from orbit_core._codec import to_data
from orbit_core._frames import Kind, RequestHead, frame_header, message_header, pack_value
from orbit_core._hello import Hello
from orbit_core._server import serve
from orbit_core.bridge import open_bridge
from orbit_core.client import AsyncBridgeClient
from orbit_core.config import BridgeConfig, EndpointConfig
from orbit_core.endpoint import open_endpoint
from orbit_core.errors import ConfigError, ConnectionLost
from orbit_core.models import HostInfo, HostRole
from orbit_core.testing import ALICE, open_deployment
from tests.joining import endpoint_token
from tests.probe_plugin import PROBE
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def certificate(tmp_path):
    """Write a certificate for this host and its key, and return the settings that name them."""
    leaf = trustme.CA().issue_cert("localhost", "127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    leaf.cert_chain_pems[0].write_to_path(cert)
    leaf.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    return {"cert": cert, "key": key}


async def connected(deployment):
    return await anyio.connect_tcp("127.0.0.1", int(deployment.url.rpartition(":")[2]))


async def closed(stream):
    """Read until the bridge closes."""
    found = b""
    with anyio.fail_after(10):
        try:
            async for chunk in stream:
                found += chunk
        except anyio.BrokenResourceError:
            pass
    return found


@pytest.mark.parametrize("begin", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_never_ends_is_closed_and_others_are_served(tmp_path, monkeypatch, begin):
    monkeypatch.setattr(_http, "HEAD_TIMEOUT", 0.2)
    async with open_deployment(tmp_path) as deployment, await connected(deployment) as slow:
        await slow.send(begin or b"\r\n")
        async with httpx.AsyncClient() as client:
            assert (await client.get(deployment.url + "/health")).status_code == 200
        assert await closed(slow) == b""


@asynccontextmanager
async def joining_by_hand(deployment, key=b"MDEyMzQ1Njc4OWFiY2RlZg=="):
    """Send a handshake and yield the connection."""
    head = (
        b"GET /register HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\nAuthorization: Bearer %s\r\n"
        b"orbit-endpoint: hasty\r\norbit-process: p1\r\norbit-link-version: 1\r\n\r\n"
    )
    token = await endpoint_token(deployment)
    async with await connected(deployment) as stream:
        await stream.send(head % (key, token.encode()))
        yield stream


def hello():
    payload = pack_value(to_data(Hello()))
    content = message_header(0) + frame_header(Kind.HELLO, 0, len(payload)) + payload
    return Frame(Opcode.BINARY, content).serialize(mask=True)


BYE = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True)


@pytest.mark.parametrize(
    ("sent", "count", "end"),
    [(hello(), 1, "joins from 127.0.0.1"), (hello() + BYE, 2, "is lost")],
    ids=["hello", "hello and goodbye"],
)
async def test_what_an_endpoint_says_before_anybody_listens_is_heard(
    tmp_path, monkeypatch, caplog, sent, count, end
):
    caplog.set_level("INFO")
    config = BridgeConfig(port=0, plugins=[], grace=0.1)
    async with open_deployment(tmp_path, config=config) as deployment:
        registry = deployment.bridge.registry
        carry = registry.carry

        async def carry_late(member, socket, received):
            await until(lambda: socket.queue.qsize() >= count)
            await carry(member, socket, received)

        monkeypatch.setattr(registry, "carry", carry_late)
        async with joining_by_hand(deployment) as stream:
            assert (await stream.receive()).startswith(b"HTTP/1.1 101 ")
            await stream.send(sent)
            await until(lambda: f"endpoint hasty {end}" in caplog.text)


async def test_what_comes_together_with_a_goodbye_counts(tmp_path, caplog):
    async with open_deployment(tmp_path) as deployment:
        async with joining_by_hand(deployment) as stream:
            assert (await stream.receive()).startswith(b"HTTP/1.1 101 ")
            (member,) = deployment.bridge.registry.members
            await until(lambda: member.link.is_attached)
            await stream.send(hello() + BYE)
            await until(lambda: not member.link.is_attached)
        assert member.link.received == 1
    assert "Traceback" not in caplog.text


async def test_a_call_on_a_socket_that_was_just_cut_goes_out_on_the_next_one(tmp_path):
    async with open_deployment(tmp_path, plugins={"node": [PROBE]}) as deployment:
        link = deployment.bridge.registry.get("node").link
        link._carrier._socket.abort()
        stream = link.call(RequestHead("GET", b"/nothing", [], {}), b"", fin=True)
        with anyio.fail_after(30):
            assert (await stream.response()).status == 404


async def test_a_handshake_that_is_none_is_refused(tmp_path):
    async with (
        open_deployment(tmp_path) as deployment,
        joining_by_hand(deployment, key=b"short") as stream,
    ):
        assert (await closed(stream)).startswith(b"HTTP/1.1 400 ")


async def test_a_bridge_serves_where_the_system_knows_no_user_timeout(tmp_path, monkeypatch):
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    async with (
        open_deployment(tmp_path) as deployment,
        deployment.client() as client,
    ):
        assert await client.whoami()


@pytest.mark.parametrize("is_short", [True, False], ids=["it ends", "it does not"])
async def test_a_server_that_stops_waits_a_while_for_what_is_in_flight(
    is_short, monkeypatch, caplog
):
    monkeypatch.setattr(_server, "SHUTDOWN_TIMEOUT", 20 if is_short else 0.1)
    begun, ended = anyio.Event(), anyio.Event()

    async def application(scope, receive, send):
        begun.set()
        try:
            await anyio.sleep(0.2 if is_short else math.inf)
        finally:
            ended.set()

    async with serve(application, BridgeConfig(port=0)) as url:
        stream = await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2]))
        await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await begun.wait()
    async with stream:
        await closed(stream)
    assert ended.is_set()
    told = [record.getMessage() for record in caplog.records if record.name == _server.__name__]
    assert told == ([] if is_short else ["requests that do not end are cut: 1"])


async def test_a_second_head_that_never_ends_is_closed_too(tmp_path, monkeypatch):
    monkeypatch.setattr(_http, "HEAD_TIMEOUT", 0.2)
    async with open_deployment(tmp_path) as deployment, await connected(deployment) as slow:
        await slow.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /health HT")
        assert (await closed(slow)).count(b"HTTP/1.1 200") == 1


async def test_empty_lines_hold_no_connection(tmp_path, monkeypatch):
    monkeypatch.setattr(_http, "HEAD_TIMEOUT", 0.2)
    async with open_deployment(tmp_path) as deployment, await connected(deployment) as slow:
        await slow.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await slow.receive()).startswith(b"HTTP/1.1 200")
        await slow.send(b"\r\n")
        assert await closed(slow) == b""


async def test_a_body_that_stands_still_is_given_up_typed(tmp_path, monkeypatch):
    monkeypatch.setattr(_proxy, "BODY_TIMEOUT", 0.1)
    plugins = {"node": [PROBE]}
    async with (
        open_deployment(tmp_path, plugins=plugins) as deployment,
        await connected(deployment) as slow,
    ):
        token = await deployment.token(ALICE)
        head = f"POST /node/probe/sink HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        await slow.send(head.encode() + b"Connection: close\r\nContent-Length: 9\r\n\r\nhalf")
        answer = await closed(slow)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer


async def test_one_address_may_not_hold_many_connections_without_a_request(tmp_path, monkeypatch):
    monkeypatch.setattr(_http, "HEADLESS_LIMIT", 2)
    monkeypatch.setattr(_http, "HURRIED_TIMEOUT", 0.05)
    async with open_deployment(tmp_path) as deployment:
        streams = [await connected(deployment) for _ in range(3)]
        assert await closed(streams[2]) == b""
        for stream in streams:
            await stream.aclose()
        await until(lambda: not _http.HttpProtocol.headless)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "127.evil.example", "node7"])
async def test_a_bind_beyond_this_host_without_tls_is_refused(tmp_path, host):
    config = BridgeConfig(port=0, plugins=[], host=host, state_dir=tmp_path)
    with pytest.raises(ConfigError, match="without TLS would show every token"):
        async with open_bridge(config):
            pass


async def test_a_bind_beyond_this_host_is_allowed_when_said(tmp_path):
    config = BridgeConfig(port=0, plugins=[], host="0.0.0.0", insecure=True)
    async with (
        open_deployment(tmp_path, config=config) as deployment,
        httpx.AsyncClient() as client,
    ):
        port = deployment.url.rpartition(":")[2]
        assert (await client.get(f"http://127.0.0.1:{port}/health")).status_code == 200


async def refusal(config):
    """Return the text of the ConfigError with which a bridge does not start."""
    with pytest.raises(ConfigError) as told:
        async with open_bridge(config):
            pass
    return told.value.detail


async def test_a_key_that_others_may_read_is_refused(tmp_path, certificate):
    certificate["key"].chmod(0o640)
    config = BridgeConfig(port=0, plugins=[], state_dir=tmp_path / "s", **certificate)
    assert "is open to others (mode 0640)" in await refusal(config)


async def test_a_certificate_that_is_none_is_refused(tmp_path, certificate):
    certificate["cert"].write_text("no certificate")
    config = BridgeConfig(port=0, plugins=[], state_dir=tmp_path / "s", **certificate)
    assert f"certificate {certificate['cert']} and key" in await refusal(config)


async def test_a_port_in_use_is_refused(tmp_path):
    async with open_deployment(tmp_path) as deployment:
        port = int(deployment.url.rpartition(":")[2])
        config = BridgeConfig(port=port, plugins=[], state_dir=tmp_path / "s")
        assert await refusal(config) == (
            f"cannot listen on 127.0.0.1 port {port}: Address already in use: "
            "choose another with --port, or --host"
        )


async def test_client_and_endpoint_trust_the_pinned_certificate(tmp_path, certificate):
    config = BridgeConfig(port=0, plugins=[], **certificate)
    plugins = {"node": [PROBE]}
    async with (
        open_deployment(tmp_path, plugins=plugins, config=config) as deployment,
        deployment.client() as client,
    ):
        assert deployment.url.startswith("https://")
        assert await client.request("GET", "/node/probe/item/1") == {"item": "1"}
        reply = await client.http.post("/auth")
    assert "secure" in reply.headers["set-cookie"].lower()


async def test_another_certificate_is_one_clear_error_for_client_and_endpoint(
    tmp_path, certificate, caplog
):
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("localhost", "127.0.0.1").cert_chain_pems[0].write_to_path(other)
    config = BridgeConfig(port=0, plugins=[], **certificate)
    async with open_deployment(tmp_path, config=config) as deployment:
        async with AsyncBridgeClient(deployment.url, other, "x") as client:
            with pytest.raises(ConnectionLost, match="CERTIFICATE_VERIFY_FAILED"):
                await client.whoami()
        async with AsyncBridgeClient(deployment.url, None, "x") as client:
            with pytest.raises(ConnectionLost, match="trust the bridge's certificate with --cert"):
                await client.whoami()
        settings = EndpointConfig(
            name="n", url=deployment.url, cert=other, plugins=[], state_dir=tmp_path / "n"
        )
        async with open_endpoint(settings, HostInfo(HostRole.STANDALONE), token="x"):
            await until(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text)
            assert "trust the bridge's certificate with --cert" in caplog.text


async def test_https_to_a_bridge_without_tls_is_told_at_once(tmp_path):
    async with open_deployment(tmp_path) as deployment:
        url = deployment.url.replace("http://", "https://")
        async with AsyncBridgeClient(url, None, "x") as client:
            with pytest.raises(ConnectionLost, match=r"is the bridge's URL http://\?$"):
                await client.whoami()


async def test_old_tls_is_refused(tmp_path, certificate):
    config = BridgeConfig(port=0, plugins=[], **certificate)
    async with open_deployment(tmp_path, config=config) as deployment:
        context = ssl.create_default_context(cafile=str(certificate["cert"]))
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        async with httpx.AsyncClient(verify=context) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(deployment.url + "/health")
