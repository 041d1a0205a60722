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
    """Hand a stream to ``write`` in lists of about `BLOCK` bytes, while the next ones come.

    What came before the stream broke, or before a cancellation, is written as well. Raises what
    either raises.
    """
    gathered = _Gathered()
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(gathered.write_all, write)
            try:
                async for part in parts:
                    await gathered.add(part)
            finally:
                gathered.end()
    except ExceptionGroup as failures:
        failure = failures.exceptions[0]
    if failure is not None:
        raise failure


class _Gathered:
    """Hold what has come of a stream and is not being written, no more than two blocks."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._is_over = False
        self._news = anyio.Event()
        self._room = anyio.Event()

    async def add(self, part: bytes) -> None:
        """Hold one part more; wait if they are many."""
        self._parts.append(part)
        self._size += len(part)
        if self._size >= BLOCK:
            self._news.set()
        if self._size >= 2 * BLOCK:
            self._room = anyio.Event()
            await self._room.wait()

    def end(self) -> None:
        """Have the rest written."""
        self._is_over = True
        self._news.set()

    async def write_all(self, write: Callable[[list[bytes]], Awaitable[None]]) -> None:
        """Write what comes until the end; each list is one trip to a thread."""
        with anyio.CancelScope(shield=True):
            while parts := await self._take():
                await write(parts)

    async def _take(self) -> list[bytes]:
        if self._size < BLOCK and not self._is_over:
            self._news = anyio.Event()
            await self._news.wait()
        parts, self._parts, self._size = self._parts, [], 0
        self._room.set()
        return parts
