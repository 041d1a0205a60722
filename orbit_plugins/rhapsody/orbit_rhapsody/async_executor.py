"""Run functions on an endpoint from coroutines: the twin of `orbit_rhapsody.OrbitExecutor`."""

from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from .connection import Connection, Target
from .futures import AsyncOrbitFuture
from .packing import Function, pack_arguments, pack_calls

AHEAD = 10_000
"""Calls that `AsyncOrbitExecutor.map` is ahead of its results, unless told otherwise."""


class AsyncOrbitExecutor:
    """Run functions on an endpoint. Use it as an asynchronous context manager.

    Results are unpickled here, which trusts the endpoint. It needs asyncio, whose futures it gives.
    """

    def __init__(
        self,
        url: str | None = None,
        endpoint: str | None = None,
        *,
        cert: str | Path | None = None,
        token: str | None = None,
        backends: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        """Name the endpoint and the bridge, as for `orbit_rhapsody.OrbitExecutor`."""
        self._connection = Connection(Target(url, endpoint, cert, token, backends, **options))
        self._is_shut = False

    async def __aenter__(self) -> Self:
        """Connect. Raises OrbitError."""
        await self._connection.__aenter__()
        return self

    async def __aexit__(self, kind: object, error: object, frames: object) -> None:
        """Wait for all calls, or leave at once if the body failed; then disconnect."""
        if error is None:
            await self.shutdown()
        self._is_shut = True
        await self._connection.__aexit__()

    async def submit(self, fn: Function, /, *args: Any, **kwargs: Any) -> AsyncOrbitFuture:
        """Have ``fn(*args, **kwargs)`` called at the endpoint, and return its future to await.

        It waits while too much waits to be sent. Raises NotPicklable, PythonMismatch, and
        RuntimeError after `shutdown`.
        """
        return await self._submit(self._connection.pack(fn), pack_arguments(args, kwargs))

    async def map(
        self, fn: Function, *iterables: Iterable[Any], chunksize: int = 1, buffersize: int = AHEAD
    ) -> AsyncIterator[Any]:
        """Yield ``fn``'s results in the order of the arguments; leaving early cancels the rest.

        ``chunksize`` calls travel and run as one; arguments are read ``buffersize`` calls ahead.
        """
        packed = self._connection.pack(fn)
        calls = zip(*iterables, strict=False)
        ahead: deque[AsyncOrbitFuture] = deque()
        try:
            while True:
                while len(ahead) < buffersize and (chunk := _take(calls, chunksize)):
                    ahead.append(await self._submit(packed, pack_calls(chunk)))
                if not ahead:
                    return
                for result in await ahead[0]:
                    yield result
                ahead.popleft()
        finally:
            for future in ahead:
                future.cancel()

    async def reload(self, uids: Iterable[str]) -> list[AsyncOrbitFuture]:
        """Return futures for calls that were submitted before, also by a process that died."""
        found: list[AsyncOrbitFuture] = await self._connection.reload(list(uids), AsyncOrbitFuture)
        return found

    async def flush(self) -> None:
        """Wait until a crash of this process loses no call: the endpoint has them on its disk."""
        await self._connection.flush()

    async def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and wait for those there are or cancel them."""
        self._is_shut = True
        if cancel_futures:
            for future in self._connection.pending():
                future.cancel()
        if wait:
            await self._connection.until_over()

    async def _submit(self, packed: str | bytes, task: dict[str, Any]) -> AsyncOrbitFuture:
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        await self._connection.channel.until_room()
        future: AsyncOrbitFuture = self._connection.submit(packed, task, AsyncOrbitFuture)
        return future


def _take(calls: Any, count: int) -> list[tuple[Any, ...]]:
    return [call for _, call in zip(range(count), calls, strict=False)]
