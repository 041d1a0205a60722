"""Carry the client's requests: with safe retries, over pinned TLS."""

import logging
import ssl
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import httpcore
import httpx

from .errors import (
    ConfigError,
    ConnectionLost,
    RequestInFlight,
    UnknownEndpoint,
    reason_of,
)
from .plugin_client import document_error

logger = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds for which a request that is safe to repeat is repeated; a bridge restarts in less."""

READ_LIMIT = 1024 * 1024
"""Bytes of an answer to take at one time, if so many have come."""

JOINED = 64 * 1024
"""Bytes of a request's largest part that is copied to be sent with others."""

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 2.0
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})
_FINAL = {
    "CERTIFICATE_VERIFY_FAILED": (
        "trust the bridge's certificate with --cert or ORBIT_CERT, "
        "and call the bridge by a name that is in it"
    ),
    "WRONG_VERSION_NUMBER": "what answers there speaks no TLS: is the bridge's URL http://?",
}
"""Faults that no repetition mends, by a word of OpenSSL's, with what to do."""


def trust(cert: Path | None) -> ssl.SSLContext:
    """Return a TLS context that trusts ``cert`` alone, or the system's authorities without it.

    Raises ConfigError if the file is no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=None if cert is None else str(cert))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the certificate {cert} cannot be used: {error}") from None
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a pinned one need not be self-signed
    return context


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


class RetryTransport(httpx.AsyncBaseTransport):
    """Repeat what is safe to repeat: reads, and writes with an ``Idempotency-Key``.

    Repeated are lost connections, 429 and 503; any request whose connection was never made is
    repeated too, and so is, after such a loss, what a bridge refuses that has just started again.
    What still fails then raises ConnectionLost, or returns the last reply.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, patience: float = PATIENCE) -> None:
        """Send through ``inner``, for at most ``patience`` seconds."""
        self._inner = inner
        self._patience = patience
        self._is_in_doubt = True

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, again if need be."""
        repeatable = request.method in _REPEATABLE or "Idempotency-Key" in request.headers
        give_up, wait = time.monotonic() + self._patience, _FIRST_WAIT
        was_lost = False
        while True:
            pause = wait
            try:
                response = await self._inner.handle_async_request(request)
                self._is_in_doubt = False
                is_busy = repeatable and response.status_code in (429, 503)
                if not (is_busy or (was_lost and await _will_pass(response))):
                    return response
                pause = max(wait, _retry_after(response))
                if time.monotonic() + pause > give_up:
                    return response
                await response.aclose()
            except httpx.TransportError as error:
                again = repeatable or isinstance(error, httpx.ConnectError)
                reason = reason_of(error)
                if not again or time.monotonic() + pause > give_up or advice(reason):
                    raise ConnectionLost(
                        f"{request.method} {request.url}: {reason}{advice(reason)}"
                    ) from error
                self._tell(request, reason)
                was_lost = True
            await anyio.sleep(pause)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _tell(self, request: httpx.Request, reason: str) -> None:
        """Say once why nothing happens, if nothing has ever answered: the URL may be wrong."""
        if self._is_in_doubt:
            self._is_in_doubt = False
            origin = f"{request.url.scheme}://{request.url.netloc.decode()}"
            logger.warning(
                "no bridge answers at %s (%s): trying for %g s", origin, reason, self._patience
            )

    async def aclose(self) -> None:
        """Close the transport beneath."""
        await self._inner.aclose()


async def _will_pass(response: httpx.Response) -> bool:
    """Tell whether only the loss is to blame for a refusal.

    The endpoint is not back yet at the bridge, or is still at work on the request of before.
    """
    if response.status_code not in (404, 409):
        return False
    error = document_error(response.status_code, await response.aread())
    return isinstance(error, (UnknownEndpoint, RequestInFlight))


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("Retry-After", "0")
    return float(text) if text.isdecimal() else 0.0


def advice(reason: str) -> str:
    """Return what to do about a fault of TLS, after a colon, or nothing."""
    return next((f": {todo}" for word, todo in _FINAL.items() if word in reason), "")
