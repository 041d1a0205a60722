"""Carry a plugin's requests to other endpoints over its own endpoint's link."""

import math
from collections.abc import AsyncIterator

import anyio
import httpx

from ._frames import CHUNK, RequestHead
from ._link import DEADLINE, Link
from ._stream import Stream
from .errors import ConnectionLost, GatewayTimeout, OrbitError


class LinkTransport(httpx.AsyncBaseTransport):
    """Carry requests to the bridge over an endpoint's own link."""

    def __init__(self, link: Link) -> None:
        """Send over ``link``."""
        self._link = link

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Make a call of a request; the bodies stream, and ``read`` timeouts are kept."""
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        head = RequestHead(request.method, request.url.raw_path, headers, {})
        timeout = request.extensions.get("timeout", {}).get("read", DEADLINE)
        patience = math.inf if timeout is None else timeout
        body = request.content if isinstance(request.stream, httpx.ByteStream) else None
        small = body is not None and len(body) <= CHUNK
        stream = self._link.call(head, body or b"" if small else b"", fin=small, deadline=patience)
        try:
            if not small:
                await _write_unless_answered(stream, request)
            answer = await stream.response()
        except BaseException:  # cancelled, too: the peer must hear that nobody waits any more
            stream.cancel(_LEFT)
            raise
        content = _StreamBody(stream, patience)
        return httpx.Response(answer.status, headers=answer.headers, stream=content)


async def _write_unless_answered(stream: Stream, request: httpx.Request) -> None:
    """Send a request's body; a server may answer without having taken it."""
    assert isinstance(request.stream, httpx.AsyncByteStream)
    try:
        async for part in request.stream:
            await stream.write(part, fin=False)
        await stream.write(b"", fin=True)
    except OrbitError:
        if stream.head is None:
            raise


_LEFT = ConnectionLost("the caller left")


class _StreamBody(httpx.AsyncByteStream):
    def __init__(self, stream: Stream, patience: float) -> None:
        self._stream = stream
        self._patience = patience

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self._read():
            yield chunk

    async def _read(self) -> bytes:
        with anyio.move_on_after(self._patience):
            return await self._stream.read()
        raise GatewayTimeout(f"nothing came for {self._patience:g} s")

    async def aclose(self) -> None:
        self._stream.cancel(_LEFT)
