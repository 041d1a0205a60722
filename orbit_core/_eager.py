"""Carry the client's requests with fewer reads and writes than httpx does by itself.

Only who dials a bridge needs this, and httpcore: not a plugin, whose requests go over its host's
own link.
"""

import ssl
from contextvars import ContextVar
from typing import Any

import httpcore
import httpx

READ_LIMIT = 1024 * 1024
"""Bytes of an answer to take at one time, if so many have come."""

JOINED = 64 * 1024
"""Bytes of a request's largest part that is copied to be sent with others."""

_is_whole: ContextVar[bool] = ContextVar("_is_whole", default=False)
"""Whether the request that is sent has its whole body at hand."""


class _EagerStream(httpcore.AsyncNetworkStream):
    """Be a connection that reads as far as there is something, and sends a head with its body.

    httpcore asks for 64 KiB at a time; each time is a third of a millisecond of its and anyio's
    own, and cuts what came in one piece in two. It also sends a head, its body and nothing at the
    end one after the other: each is a packet for which the bridge wakes up.
    """

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self._held = b""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._inner.read(READ_LIMIT, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if _is_whole.get() and 0 < len(buffer) <= JOINED:
            self._held += buffer
            return
        buffer, self._held = self._held + buffer, b""
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(self, *args: Any, **settings: Any) -> httpcore.AsyncNetworkStream:
        return _EagerStream(await self._inner.start_tls(*args, **settings))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _EagerNetwork(httpcore.AnyIOBackend):
    async def connect_tcp(self, *args: Any, **settings: Any) -> httpcore.AsyncNetworkStream:
        return _EagerStream(await super().connect_tcp(*args, **settings))


class EagerTransport(httpx.AsyncHTTPTransport):
    """Carry requests as httpx does, with fewer reads and writes, which it has no argument for."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        """Trust servers as ``context`` says; None is for plain HTTP."""
        super().__init__(verify=context or False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=200,
            max_keepalive_connections=50,
            keepalive_expiry=5.0,
            network_backend=_EagerNetwork(),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        before = _is_whole.set(isinstance(request.stream, httpx.ByteStream))
        try:
            return await super().handle_async_request(request)
        finally:
            _is_whole.reset(before)
