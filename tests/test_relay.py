"""The relay of a parent endpoint, before a real bridge."""

import base64
import socket
import ssl
import struct
from contextlib import asynccontextmanager

import anyio
import pytest
import trustme

from orbit_core._dial import Credentials, dial
from orbit_core.config import Access, BridgeConfig
from orbit_core.errors import ConfigError, ConnectionLost
from orbit_core.models import Principal, Role
from orbit_core.testing import open_deployment
from orbit_core.ways.address import host_and_port, joined
from orbit_core.ways.models import Route
from orbit_core.ways.relay import CHILD_LIMIT, HEAD_PATIENCE, PENDING_LIMIT, Relay
from orbit_core.ways.relaying import relay_key

from .connect_proxy import open_proxy

pytestmark = pytest.mark.anyio

NAME = "login.gpu"
TOKEN = "orbit_secret"
CHILD = Principal("alice", Role.ENDPOINT, endpoint=NAME)


def is_child(name, key):
    return (name, key) == (NAME, relay_key(TOKEN))


@asynccontextmanager
async def open_relay(url, allowed=is_child, cert=None, key=None):
    relay = Relay(url, allowed)
    await relay.listen("127.0.0.1", 0, cert, key)
    async with anyio.create_task_group() as group:
        group.start_soon(relay.run)
        yield relay
        group.cancel_scope.cancel()


@pytest.fixture
async def deployment(tmp_path):
    async with open_deployment(tmp_path) as found:
        yield found


async def ask(relay, request):
    """Return the first line of what the relay answers."""
    async with await anyio.connect_tcp("127.0.0.1", relay.port) as stream:
        await stream.send(request)
        answer = b""
        with anyio.move_on_after(5):
            try:
                while b"\r\n" not in answer:
                    answer += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
        return answer.split(b"\r\n")[0].decode()


def connect_to(target, name=NAME, key=None):
    secret = f"{name}:{relay_key(TOKEN) if key is None else key}".encode()
    credentials = base64.b64encode(secret).decode()
    return (
        f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
        f"Proxy-Authorization: Basic {credentials}\r\n\r\n"
    ).encode()


@asynccontextmanager
async def child_through(deployment, relay, scheme="http", **route):
    token = await deployment.token(CHILD)
    url = f"{scheme}://{NAME}:{relay_key(TOKEN)}@127.0.0.1:{relay.port}"
    access = Access(deployment.url, token, deployment.bridge.config.cert)
    async with dial(access, Credentials(NAME, "p", None, 0), Route(proxy=url, **route)):
        yield


async def test_a_child_links_through_the_relay(deployment):
    async with open_relay(deployment.url) as relay, child_through(deployment, relay):
        (member,) = deployment.bridge.registry.members
        assert member.name == NAME


async def test_a_relay_may_have_tls_of_its_own_before_a_bridge_with_tls(tmp_path):
    authority = trustme.CA()
    for name, host in (("bridge", "127.0.0.1"), ("relay", "some.login.host")):
        issued = authority.issue_cert(host)
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        (tmp_path / f"{name}.key").chmod(0o600)
    config = BridgeConfig(
        port=0, plugins=[], cert=tmp_path / "bridge.pem", key=tmp_path / "bridge.key"
    )
    pem, key = tmp_path / "relay.pem", tmp_path / "relay.key"
    async with (
        open_deployment(tmp_path, config=config) as deployment,
        open_relay(deployment.url, cert=pem, key=key) as relay,
        child_through(deployment, relay, "https", proxy_cert=str(pem)),
    ):
        (member,) = deployment.bridge.registry.members
        assert member.name == NAME


@pytest.mark.parametrize(
    ("target", "name", "key"),
    [(None, NAME, "0" * 64), (None, "login.other", None), (None, "", ""), (None, NAME, TOKEN)],
    ids=["wrong-key", "wrong-name", "nobody", "the-token-itself"],
)
async def test_whom_the_relay_does_not_know_it_refuses(deployment, target, name, key):
    target = joined(*host_and_port(deployment.url))
    async with open_relay(deployment.url) as relay:
        answer = await ask(relay, connect_to(target, name, key))

    assert answer == "HTTP/1.1 407 this proxy is for the children of its endpoint only"


@pytest.mark.parametrize("header", ["", "Proxy-Authorization: Basic %%%\r\n",
                                    "Proxy-Authorization: Bearer x\r\n"])  # fmt: skip
async def test_credentials_that_are_none_are_refused(deployment, header):
    async with open_relay(deployment.url) as relay:
        answer = await ask(relay, f"CONNECT a:1 HTTP/1.1\r\n{header}\r\n".encode())

    assert answer.startswith("HTTP/1.1 407 ")


async def test_the_relay_leads_nowhere_but_to_the_bridge(deployment):
    host, port = host_and_port(deployment.url)
    async with open_relay(deployment.url) as relay:
        answers = [await ask(relay, connect_to(target)) for target in
                   (f"{host}:{port + 1}", f"localhost:{port}", "10.0.0.1:22")]  # fmt: skip

    assert answers == ["HTTP/1.1 403 this proxy leads to its bridge only"] * 3


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", "405 this proxy knows CONNECT only"),
        (b"\x16\x03\x01\r\n\r\n", "400 this is no HTTP request"),
    ],
    ids=["get", "tls"],
)
async def test_other_requests_are_refused(deployment, request_, answer):
    async with open_relay(deployment.url) as relay:
        assert await ask(relay, request_) == f"HTTP/1.1 {answer}"


async def test_a_request_without_end_is_cut(deployment):
    async with open_relay(deployment.url) as relay:
        assert await ask(relay, b"CONNECT " + b"x" * 20_000) == ""


async def test_who_says_nothing_is_cut(deployment, monkeypatch):
    monkeypatch.setattr("orbit_core.ways.relay.HEAD_PATIENCE", HEAD_PATIENCE / 100)
    async with open_relay(deployment.url) as relay:
        assert await ask(relay, b"CONN") == ""


async def test_the_silent_do_not_crowd_the_relay(deployment):
    async with open_relay(deployment.url) as relay:
        silent = [await anyio.connect_tcp("127.0.0.1", relay.port) for _ in range(PENDING_LIMIT)]
        with anyio.fail_after(5):
            while relay._pending < PENDING_LIMIT:
                await anyio.sleep(0.01)

        assert await ask(relay, b"GET / HTTP/1.1\r\n\r\n") == ""

        for stream in silent:
            await stream.aclose()


async def test_a_child_has_a_few_connections_at_most(deployment):
    target = joined(*host_and_port(deployment.url))
    async with open_relay(deployment.url) as relay:
        streams = [await anyio.connect_tcp("127.0.0.1", relay.port) for _ in range(CHILD_LIMIT)]
        for stream in streams:
            await stream.send(connect_to(target))
            assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")

        answer = await ask(relay, connect_to(target))

        assert answer == f"HTTP/1.1 429 the child {NAME} has too many connections"
        for stream in streams:
            await stream.aclose()


async def test_what_was_cut_does_not_go_on(deployment):
    target = joined(*host_and_port(deployment.url))
    async with (
        open_relay(deployment.url) as relay,
        await anyio.connect_tcp("127.0.0.1", relay.port) as stream,
    ):
        await stream.send(connect_to(target))
        await stream.receive()

        relay.cut("login.other")
        relay.cut(NAME)

        with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()


async def test_a_bridge_that_is_away_is_told_of():
    async with open_relay("http://127.0.0.1:9") as relay:
        answer = await ask(relay, connect_to("127.0.0.1:9"))

    assert answer == "HTTP/1.1 502 the bridge cannot be reached"


async def test_a_child_hears_that_the_relay_refuses(deployment):
    async with open_relay(deployment.url, allowed=lambda name, key: False) as relay:
        with pytest.raises(ConnectionLost, match="proxy rejected connection: HTTP 407"):
            async with child_through(deployment, relay):
                pass


async def test_a_port_in_use_is_told_of(deployment):
    async with open_relay(deployment.url) as relay:
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1 port {relay.port}"):
            await Relay(deployment.url, is_child).listen("127.0.0.1", relay.port, None, None)


async def test_a_certificate_that_is_none_is_told_of(deployment, tmp_path):
    with pytest.raises(ConfigError, match="the relay cannot use"):
        await Relay(deployment.url, is_child).listen("127.0.0.1", 0, tmp_path / "no.pem", None)


@pytest.fixture
def behind(monkeypatch):
    """Name a proxy as a site does."""

    def name(proxy, secret=None):
        monkeypatch.setenv("https_proxy", proxy.url(secret))
        for variable in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(variable, raising=False)

    return name


async def test_a_relay_goes_through_the_proxy_that_its_endpoint_needs(deployment, behind):
    async with open_proxy(secret="site:p@ss") as proxy, open_relay(deployment.url) as relay:
        behind(proxy, "site:p%40ss")
        async with child_through(deployment, relay):
            assert proxy.targets == [joined(*host_and_port(deployment.url))]


@pytest.mark.parametrize(
    "settings", [{"secret": "a:b"}, {"answer": b"nonsense\r\n"}], ids=["refuses", "no-proxy"]
)
async def test_a_proxy_that_does_not_let_the_relay_through_is_told_of(deployment, behind, settings):
    target = joined(*host_and_port(deployment.url))
    async with open_proxy(**settings) as proxy, open_relay(deployment.url) as relay:
        behind(proxy)
        assert await ask(relay, connect_to(target)) == "HTTP/1.1 502 the bridge cannot be reached"


async def test_a_proxy_may_have_tls_itself(deployment, tmp_path, behind, monkeypatch):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with open_proxy(tls=context) as proxy, open_relay(deployment.url) as relay:
        behind(proxy)
        async with child_through(deployment, relay):
            assert proxy.targets == [joined(*host_and_port(deployment.url))]


async def test_who_leaves_before_the_answer_harms_nobody(deployment, monkeypatch):
    monkeypatch.setattr("orbit_core.ways.relay.CHILD_LIMIT", 10_000)
    target = joined(*host_and_port(deployment.url))
    async with open_relay(deployment.url) as relay:
        for _ in range(20):
            async with await anyio.connect_tcp("127.0.0.1", relay.port) as stream:
                await stream.send(connect_to(target))
                raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        assert (await ask(relay, connect_to(target))).startswith("HTTP/1.1 200 ")
