"""Run functions on an endpoint through the interface of `concurrent.futures.Executor`."""

import concurrent.futures
import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from anyio.from_thread import BlockingPortal

from .connection import Connection, Target
from .futures import OrbitFuture
from .packing import Function, pack_arguments, pack_calls


class OrbitExecutor(concurrent.futures.Executor):
    """Run functions on an endpoint.

    Results are unpickled here, which trusts the endpoint. Futures are `OrbitFuture`, whose ``uid``
    finds the result again after a crash, with `reload`.
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
        """Connect to ``endpoint`` through the bridge at ``url``, which may be left out.

        ``options`` are ``plugin`` (its instance) and ``patience`` (seconds). Raises OrbitError.
        """
        self._target = Target(url, endpoint, cert, token, backends, **options)
        self._lock = threading.Lock()
        self._is_shut = False
        self._portal: BlockingPortal
        self._closing: anyio.Event
        self._loop: Any
        opened: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=self._run, args=(opened,), name="orbit executor", daemon=True
        )
        self._thread.start()
        opened.result()

    def submit(self, fn: Function, /, *args: Any, **kwargs: Any) -> OrbitFuture:
        """Have ``fn(*args, **kwargs)`` called at the endpoint, and return its future.

        ``fn`` may be an import path ``module:name``. It waits while too much waits to be sent,
        except in the callback of a future.
        Raises NotPicklable, PythonMismatch, and RuntimeError after `shutdown`.
        """
        return self._submit(self._connection.pack(fn), pack_arguments(args, kwargs))

    def map(
        self,
        fn: Function,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Return an iterator over ``fn``'s results, in the order of the arguments.

        ``chunksize`` calls travel and run as one. All arguments are read at once, or only
        ``buffersize`` calls ahead of the results. Raises TimeoutError ``timeout`` seconds from now.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be at least 1")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be at least 1, or None")
        give_up = None if timeout is None else time.monotonic() + timeout
        packed = self._connection.pack(fn)
        calls = zip(*iterables, strict=False)
        if chunksize == 1:
            futures = (self._submit(packed, pack_arguments(args, {})) for args in calls)
        else:
            chunks = iter(lambda: list(itertools.islice(calls, chunksize)), [])
            futures = (self._submit(packed, pack_calls(chunk)) for chunk in chunks)
        ahead = deque(futures if buffersize is None else itertools.islice(futures, buffersize))
        found = _results(ahead, futures, give_up)
        return found if chunksize == 1 else itertools.chain.from_iterable(found)

    def reload(self, uids: Iterable[str]) -> list[OrbitFuture]:
        """Return futures for calls that were submitted before, also by a process that died."""
        self._check_open()
        made = self._portal.start_task_soon(self._connection.reload, list(uids), OrbitFuture)
        found: list[OrbitFuture] = made.result()
        return found

    def flush(self) -> None:
        """Wait until a crash of this process loses no call: the endpoint has them on its disk."""
        self._check_open()
        self._portal.start_task_soon(self._connection.flush).result()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; disconnect once all are over.

        With ``cancel_futures``, those that do not run yet are cancelled. Without ``wait`` this
        returns at once; the calls go on at the endpoint even if this process ends.
        """
        with self._lock:
            if not self._is_shut:
                self._is_shut = True
                self._loop.call_soon_threadsafe(self._closing.set)
        if cancel_futures:
            for future in self._connection.pending():
                future.cancel()
        if wait:
            self._thread.join()

    def _submit(self, packed: str | bytes, task: dict[str, Any]) -> OrbitFuture:
        channel = self._connection.channel
        if channel.is_full and threading.current_thread() is not self._thread:
            channel.wait_for_room()
        with self._lock:
            self._check_open()
            future: OrbitFuture = self._connection.submit(packed, task, OrbitFuture)
        return future

    def _check_open(self) -> None:
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _run(self, opened: "concurrent.futures.Future[None]") -> None:
        anyio.run(self._serve, opened, backend_options={"use_uvloop": True})

    async def _serve(self, opened: "concurrent.futures.Future[None]") -> None:
        """Be the executor's own thread: connect, and stay until it is shut down and all is over."""
        self._connection = Connection(self._target)
        try:
            await self._connection.__aenter__()
        except BaseException as error:  # noqa: BLE001  # raised in the constructor
            opened.set_exception(error)
            return
        async with BlockingPortal() as self._portal:
            self._closing = anyio.Event()
            self._loop = anyio.lowlevel.current_token().native_token
            opened.set_result(None)
            await self._closing.wait()
        await self._connection.until_over()
        await self._connection.__aexit__()


def _results(
    ahead: "deque[OrbitFuture]", more: Iterator[OrbitFuture], give_up: float | None
) -> Iterator[Any]:
    """Yield results in order; leaving early cancels the rest."""
    try:
        while ahead:
            left = None if give_up is None else give_up - time.monotonic()
            result = ahead[0].result(left)
            ahead.popleft()
            ahead.extend(itertools.islice(more, 1))
            yield result
    finally:
        for future in ahead:
            future.cancel()
