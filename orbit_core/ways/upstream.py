"""Open a connection to the bridge as a relay does: through the proxy that the environment names."""

import base64
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
    """Ask an HTTP proxy for a connection (RFC 9110, section 9.3.6)."""
    parts = urlsplit(proxy)
    host, port = host_and_port(proxy)
    stream: ByteStream = (
        await anyio.connect_tcp(host, port, tls=True, tls_standard_compatible=False)
        if parts.scheme == "https"
        else await anyio.connect_tcp(host, port)
    )
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(secret.encode()).decode()}")
    reader = BufferedByteReceiveStream(stream)
    try:
        await stream.send("\r\n".join([*lines, "", ""]).encode())
        head = await reader.receive_until(b"\r\n\r\n", HEAD_LIMIT)
        _check(head.split(b"\r\n", 1)[0].decode("latin-1"), host)
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise
    return stream, reader.buffer


def _check(status: str, host: str) -> None:
    if status.split(" ")[1:2] != ["200"]:
        raise NoRoute(f"the proxy {host} refuses: {status}")
