"""Open a connection to the bridge as a relay does: through the proxy that the environment names."""

import base64
from contextlib import AsyncExitStack
from urllib.parse import unquote, urlsplit

import anyio
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream

from orbit_core.errors import NoRoute, reason_of

from .address import host_and_port, joined, named_proxy

HEAD_LIMIT = 8192
"""Bytes of a request's or an answer's head."""

CONNECT_PATIENCE = 15.0

_FAILURES = (  # TimeoutError is an OSError
    OSError, anyio.IncompleteRead, anyio.DelimiterNotFound, anyio.BrokenResourceError,
)  # fmt: skip


async def open_upstream(url: str) -> tuple[ByteStream, bytes]:
    """Return a connection to the host of ``url``, with what came over it already.

    Raises NoRoute.
    """
    proxy, target = named_proxy(url), joined(*host_and_port(url))
    try:
        with anyio.fail_after(CONNECT_PATIENCE):
            if proxy is None:
                return await anyio.connect_tcp(*host_and_port(url)), b""
            return await _through(proxy, target)
    except _FAILURES as error:
        raise NoRoute(f"no connection to {target}: {reason_of(error)}") from None


async def _through(proxy: str, target: str) -> tuple[ByteStream, bytes]:
    """Connect by way of an HTTP proxy."""
    host, port = host_and_port(proxy)
    request = _request(proxy, target)
    if proxy.startswith("https:"):
        stream: ByteStream = await anyio.connect_tcp(
            host, port, tls=True, tls_standard_compatible=False
        )
    else:
        stream = await anyio.connect_tcp(host, port)
    return await _ask(stream, request, host)


def _request(proxy: str, target: str) -> bytes:
    """Return what asks a proxy for a connection (RFC 9110, section 9.3.6)."""
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    parts = urlsplit(proxy)
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(secret.encode()).decode()}")
    return "\r\n".join([*lines, "", ""]).encode()


async def _ask(stream: ByteStream, request: bytes, host: str) -> tuple[ByteStream, bytes]:
    """Send a request to a proxy, and return the connection that it gives."""
    reader = BufferedByteReceiveStream(stream)
    async with AsyncExitStack() as undo:
        undo.push_async_callback(anyio.aclose_forcefully, stream)
        await stream.send(request)
        head = await reader.receive_until(b"\r\n\r\n", HEAD_LIMIT)
        _check(head.split(b"\r\n", 1)[0].decode("latin-1"), host)
        undo.pop_all()
    return stream, reader.buffer


def _check(status: str, host: str) -> None:
    if status.split(" ")[1:2] != ["200"]:
        raise NoRoute(f"the proxy {host} refuses: {status}")
