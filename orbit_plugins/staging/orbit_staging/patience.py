"""Decide for how long a transfer that breaks is taken up again."""

import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from orbit_core.errors import (
    ConnectionLost,
    GatewayTimeout,
    OrbitError,
    RequestTimeout,
    TooManyRequests,
    Unavailable,
    UnknownEndpoint,
    reason_of,
)

from .errors import UploadBusy

T = TypeVar("T")

PASSING = (
    GatewayTimeout,
    RequestTimeout,
    TooManyRequests,
    Unavailable,
    UnknownEndpoint,
    UploadBusy,
)
"""Failures of the way between two hosts, which may work again soon."""

PATIENCE = 180.0
"""Seconds without a byte of progress after which a transfer is given up."""

FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0


class Patience:
    """Wait after a failure, longer each time, until nothing has moved for too long."""

    def __init__(self, seconds: float) -> None:
        """Begin with nothing moved; give up after ``seconds``."""
        self._seconds = seconds
        self._moved = time.monotonic()
        self._wait = FIRST_WAIT
        self._offset = 0

    def see(self, offset: int) -> None:
        """Note how far the transfer has come."""
        if offset != self._offset:
            self._offset = offset
            self._moved = time.monotonic()
            self._wait = FIRST_WAIT

    async def bear(self, error: Exception) -> None:
        """Wait before the next attempt, or raise ``error`` as one of ours."""
        wait = max(self._wait, getattr(error, "retry_after", None) or 0.0)
        if time.monotonic() + wait > self._moved + self._seconds:
            raise error if isinstance(error, OrbitError) else ConnectionLost(reason_of(error))
        self._wait = min(2 * self._wait, LONGEST_WAIT)
        await anyio.sleep(wait * random.uniform(0.5, 1.0))


async def patiently(seconds: float, call: Callable[[], Awaitable[T]]) -> T:
    """Return what ``call`` does, which is called again where the way there fails."""
    patience = Patience(seconds)
    while True:
        try:
            return await call()
        except PASSING as error:
            await patience.bear(error)
