"""Run an event loop of the standard library in a thread of its own.

An endpoint's loop is uvloop, which starts processes three times as slowly, and stands still
meanwhile.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import anyio.lowlevel

from .children import watch_children

T = TypeVar("T")


class LoopThread:
    """Be such a loop; made on the endpoint's own loop."""

    def __init__(self) -> None:
        """Start the thread."""
        self._home: Any = anyio.lowlevel.current_token().native_token
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._stop = asyncio.Event()
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_scheduled = False
        threading.Thread(
            target=lambda: asyncio.run(self._serve()), name="orbit processes", daemon=True
        ).start()

    async def call(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        """Await ``function(*arguments)`` there."""
        is_there = self._loop.done()
        loop = self._loop.result() if is_there else await asyncio.wrap_future(self._loop)
        done = asyncio.run_coroutine_threadsafe(function(*arguments), loop)
        return await asyncio.wrap_future(done)

    def send_home(self, act: Callable[[], None]) -> None:
        """Call ``act`` on the endpoint's loop; several that come close together in one turn."""
        self._waiting.append(act)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._home.call_soon_threadsafe(self._drain)

    def stop(self) -> None:
        """End the loop."""
        self._loop.result().call_soon_threadsafe(self._stop.set)

    def _drain(self) -> None:
        self._is_scheduled = False
        while self._waiting:
            self._waiting.popleft()()

    async def _serve(self) -> None:
        watch_children()
        self._loop.set_result(asyncio.get_running_loop())
        await self._stop.wait()
