"""Carry the client's requests again, where that is safe and helps."""

import logging
import time

import anyio
import httpx

from ._tls import advice
from .error_documents import document_error
from .errors import ConnectionLost, RequestInFlight, UnknownEndpoint, reason_of

logger = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds for which a request that is safe to repeat is repeated; a bridge restarts in less."""

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 2.0
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})


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
