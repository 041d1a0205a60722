"""Do work on files in threads, a few at a time: a file system that hangs holds nobody else up."""

import os
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from .digests import BLOCK

T = TypeVar("T")

THREADS = 16


class Disk:
    """Run functions that block, in threads of its own."""

    def __init__(self) -> None:
        """Have `THREADS` threads."""
        self._limiter = anyio.CapacityLimiter(THREADS)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what ``function(*arguments)`` does, once it is done; it is never abandoned."""
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._limiter)

    async def close(self, descriptor: int) -> None:
        """Close a file, also in the course of a cancellation; on NFS this may take long."""
        with anyio.CancelScope(shield=True):
            await self.run(os.close, descriptor)


async def pour(
    parts: AsyncIterable[bytes], write: Callable[[list[bytes]], Awaitable[None]]
) -> None:
    """Hand a stream to ``write`` in lists of about `BLOCK` bytes: each is one trip to a thread.

    What came before the stream broke, or before a cancellation, is written as well.
    """
    gathered: list[bytes] = []
    size = 0
    try:
        async for part in parts:
            gathered.append(part)
            size += len(part)
            if size >= BLOCK:
                full, gathered, size = gathered, [], 0
                await write(full)
    finally:
        if gathered:
            with anyio.CancelScope(shield=True):
                await write(gathered)
