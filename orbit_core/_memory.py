"""Give memory back to the system that is free here.

A thousand endpoints that come back together leave a bridge some 40 MiB of free memory between what
is still used; the C library keeps that, until somebody asks it not to.
"""

import ctypes
from collections.abc import Callable

import anyio
import anyio.to_thread

TRIM_INTERVAL = 30.0
"""Seconds between two times of giving back; each takes some milliseconds, of another thread."""

_trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""Return what is free (malloc_trim(3)), where the C library is glibc."""


def give_back() -> None:
    """Give back what is free, where the C library can."""
    if _trim is not None:
        _trim(0)


async def keep_giving_back() -> None:
    """Give back every `TRIM_INTERVAL` seconds, until cancelled."""
    while True:
        await anyio.sleep(TRIM_INTERVAL)
        await anyio.to_thread.run_sync(give_back)
