"""Read a bridge's event stream, and open it anew, where it broke off, whenever it breaks."""

import json
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import anyio
import attrs
import httpx
from httpx_sse import SSEError, aconnect_sse

from .error_documents import error_of
from .errors import DeadlineExceeded, TooManyRequests, Unavailable

logger = logging.getLogger(__name__)

SILENCE = 45.0
"""Seconds without an event or keep-alive after which an event stream is opened anew."""

_PASSING = (httpx.TransportError, SSEError, Unavailable, DeadlineExceeded, TooManyRequests)
"""Failures after which an event stream is opened anew."""


@attrs.frozen
class Event:
    """Hold one server-sent event: ``kind`` is ``notification``, ``topology`` or ``gap``."""

    kind: str
    data: Any
    id: str | None = None


async def read_events(
    http: httpx.AsyncClient, parameters: Mapping[str, str]
) -> AsyncGenerator[Event, None]:
    """Yield events for ever. Raises OrbitError where trying again is no use."""
    last: str | None = None
    failures = 0
    while True:
        try:
            async for event in _read_stream(http, parameters, last):
                failures = 0
                last = event.id or last
                yield event
        except _PASSING as error:
            logger.info("the event stream broke and is opened anew: %s", error)
        failures += 1
        await anyio.sleep(random.uniform(0, min(5.0, 0.1 * 2**failures)))


async def _read_stream(
    http: httpx.AsyncClient, parameters: Mapping[str, str], last: str | None
) -> AsyncIterator[Event]:
    headers = {} if last is None else {"Last-Event-ID": last}
    timeout = httpx.Timeout(30.0, read=SILENCE)
    async with aconnect_sse(
        http, "GET", "/events", params=parameters, headers=headers, timeout=timeout
    ) as source:
        if source.response.status_code >= 400:
            await source.response.aread()
            raise error_of(source.response)
        async for event in source.aiter_sse():
            if event.data:  # else it is a comment, of which httpx-sse makes an empty event
                document = json.loads(event.data)
                yield Event(document["topic"], document["data"], event.id or None)
