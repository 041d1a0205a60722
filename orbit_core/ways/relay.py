"""Pass the links of children on to the bridge: an HTTP proxy that knows CONNECT and one target.

What it passes on it does not see: a child's link is encrypted up to the bridge, if that has TLS.
"""

import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httptools
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSListener

from orbit_core.errors import ConfigError, NoRoute

from .address import host_and_port, joined
from .relaying import read_credentials
from .upstream import HEAD_LIMIT, open_upstream

logger = logging.getLogger(__name__)

HEAD_PATIENCE = 10.0
"""Seconds in which a request must be there."""

PENDING_LIMIT = 64
"""Connections that have not said yet who they are."""

CHILD_LIMIT = 8
"""Connections of one child: it has one link, and perhaps some that are about to die."""

PART = 64 * 1024

_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError)

Allowed = Callable[[str, str], bool]


class Refusal(Exception):
    """Refuse a request with an HTTP status and its reason."""

    def __init__(self, status: int, reason: str) -> None:
        """Say why."""
        super().__init__(reason)
        self.status = status


class Relay:
    """Be one endpoint's relay to its bridge."""

    def __init__(self, bridge_url: str, allowed: Allowed) -> None:
        """Pass on to the bridge whom ``allowed(name, key)`` knows as a child."""
        self._url = bridge_url
        self._target = joined(*host_and_port(bridge_url))
        self._allowed = allowed
        self._pending = 0
        self._scopes: dict[anyio.CancelScope, str] = {}
        self._listener: Any
        self.port = 0

    async def listen(self, host: str, port: int, cert: Path | None, key: Path | None) -> None:
        """Take a port, with TLS if there is a certificate. Raises ConfigError."""
        try:
            listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
        except OSError as error:
            raise ConfigError(f"the relay cannot listen on {host} port {port}: {error}") from None
        self.port = listener.extra(SocketAttribute.local_port)
        self._listener = listener
        if cert is not None:
            try:
                context = await anyio.to_thread.run_sync(_server_context, cert, key)
            except (OSError, ssl.SSLError) as error:
                await listener.aclose()
                raise ConfigError(f"the relay cannot use {cert} and {key}: {error}") from None
            self._listener = TLSListener(
                listener, context, standard_compatible=False, handshake_timeout=HEAD_PATIENCE
            )

    async def run(self) -> None:
        """Serve until cancelled, after `listen`."""
        async with self._listener:
            await self._listener.serve(self._serve)

    def cut(self, name: str) -> None:
        """End the connections of a child."""
        for scope, child in list(self._scopes.items()):
            if child == name:
                scope.cancel()

    async def _serve(self, stream: ByteStream) -> None:
        _keep_alive(stream)
        with suppress(*_GONE):
            await self._serve_one(stream)

    async def _serve_one(self, stream: ByteStream) -> None:
        async with stream:
            if self._pending >= PENDING_LIMIT:
                return
            reader = BufferedByteReceiveStream(stream)
            self._pending += 1
            try:
                with anyio.fail_after(HEAD_PATIENCE):
                    name = self._child(await reader.receive_until(b"\r\n\r\n", HEAD_LIMIT))
            except Refusal as refusal:
                logger.warning("the relay refuses a connection: %s", refusal)
                await _answer(stream, refusal.status, str(refusal))
                return
            except (TimeoutError, anyio.IncompleteRead, anyio.DelimiterNotFound, *_GONE):
                return
            finally:
                self._pending -= 1
            await self._connect(name, stream, reader)

    async def _connect(
        self, name: str, stream: ByteStream, reader: BufferedByteReceiveStream
    ) -> None:
        try:
            upstream, early = await open_upstream(self._url)
        except NoRoute as error:
            logger.warning("the relay does not reach the bridge for %s: %s", name, error.detail)
            await _answer(stream, 502, "the bridge cannot be reached")
            return
        _keep_alive(upstream)
        with anyio.CancelScope() as scope:
            self._scopes[scope] = name
            try:
                async with upstream:
                    await _answer(stream, 200, "Connection established", early)
                    await _join(stream, reader, upstream)
            finally:
                del self._scopes[scope]

    def _child(self, head: bytes) -> str:
        """Return whose request it is. Raises Refusal."""
        request = _Request()
        parser = httptools.HttpRequestParser(request)
        try:
            parser.feed_data(head + b"\r\n\r\n")
        except httptools.HttpParserUpgrade:
            pass  # that is what CONNECT is
        except httptools.HttpParserError:
            raise Refusal(400, "this is no HTTP request") from None
        if parser.get_method() != b"CONNECT":
            raise Refusal(405, "this proxy knows CONNECT only")
        name, key = read_credentials(request.credentials)
        if not self._allowed(name, key):
            raise Refusal(407, "this proxy is for the children of its endpoint only")
        if request.target != self._target:
            raise Refusal(403, "this proxy leads to its bridge only")
        if Counter(self._scopes.values())[name] >= CHILD_LIMIT:
            raise Refusal(429, f"the child {name} has too many connections")
        return name


class _Request:
    """Hear what the parser of a request finds."""

    def __init__(self) -> None:
        self.target = ""
        self.credentials = ""

    def on_url(self, url: bytes) -> None:
        self.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"proxy-authorization":
            self.credentials = value.decode("latin-1")


async def _answer(stream: ByteStream, status: int, reason: str, more: bytes = b"") -> None:
    ask = 'Proxy-Authenticate: Basic realm="orbit"\r\n' if status == 407 else ""
    with anyio.move_on_after(HEAD_PATIENCE), suppress(*_GONE):
        await stream.send(f"HTTP/1.1 {status} {reason}\r\n{ask}\r\n".encode() + more)


async def _join(
    stream: ByteStream, reader: BufferedByteReceiveStream, upstream: ByteStream
) -> None:
    """Pass bytes on both ways until either side ends."""
    async with anyio.create_task_group() as group:

        async def pump(source: Any, sink: ByteStream) -> None:
            try:
                while True:
                    await sink.send(await source.receive(PART))
            except (anyio.EndOfStream, *_GONE):
                group.cancel_scope.cancel()

        group.start_soon(pump, reader, upstream)
        group.start_soon(pump, upstream, stream)


def _keep_alive(stream: ByteStream) -> None:
    """Have the kernel find out, within some two minutes, that the other side is gone."""
    raw = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in _KEEP_ALIVE:
        raw.setsockopt(socket.IPPROTO_TCP, option, value)


_KEEP_ALIVE = [
    (getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
    if hasattr(socket, name)
]
"""Seconds of silence, seconds between probes, and probes, where the system has them (tcp(7))."""


def _server_context(cert: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    return context
