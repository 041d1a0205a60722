"""Decide what becomes of memory that is free here: a little is kept at hand, the rest given back.

A thousand endpoints that come back together leave a bridge some 40 MiB of free memory between what
is still used; the C library keeps that, until somebody asks it not to. What it gives back by itself
is the other extreme: the memory of every part of a large body, only to ask for it again.
"""

import ctypes
from collections.abc import Callable

import anyio
import anyio.to_thread

TRIM_INTERVAL = 30.0
"""Seconds between two times of giving back; each takes some milliseconds, of another thread."""

LARGE = 8 * 1024 * 1024
"""Bytes from which memory is the system's own again as soon as it is free."""

KEPT = 16 * 1024 * 1024
"""Bytes that may be free at the end of the heap before some are given back."""

_library = ctypes.CDLL(None)
_trim: Callable[[int], int] | None = getattr(_library, "malloc_trim", None)
"""Return what is free (malloc_trim(3)), where the C library is glibc."""

_set: Callable[[int, int], int] | None = getattr(_library, "mallopt", None)
"""Set one of the two limits below (mallopt(3)), where the C library is glibc."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_at_hand() -> None:
    """Have the memory of one part of a body used for the next, where the C library can.

    That spares a bridge a third of the time that a large body takes it.
    """
    if _set is not None:
        _set(_MMAP_THRESHOLD, LARGE)
        _set(_TRIM_THRESHOLD, KEPT)


def give_back() -> None:
    """Give back what is free, where the C library can."""
    if _trim is not None:
        _trim(0)


async def keep_giving_back() -> None:
    """Give back every `TRIM_INTERVAL` seconds, until cancelled."""
    while True:
        await anyio.sleep(TRIM_INTERVAL)
        await anyio.to_thread.run_sync(give_back)
