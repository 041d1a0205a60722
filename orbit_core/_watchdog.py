"""Log who blocks the event loop, with the stack, while it happens."""

import logging
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

logger = logging.getLogger(__name__)

STALL = 0.2
"""Seconds without a turn of the loop that are logged."""

BEAT = 0.05
"""Seconds between signs of life."""


class _Watch:
    """Look from a second thread at how long the loop has not turned."""

    def __init__(self) -> None:
        self.beat = time.monotonic()
        self.stopped = threading.Event()
        self._thread = threading.get_ident()
        self._reported = 0.0

    def look(self) -> None:
        while not self.stopped.wait(STALL / 2):
            silence = time.monotonic() - self.beat
            if silence > STALL and self._reported != self.beat:
                self._reported = self.beat
                frame = sys._current_frames().get(self._thread)
                stack = "".join(traceback.format_stack(frame)) if frame else ""
                logger.warning("the event loop has not turned for %.0f ms; it is at\n%s", silence * 1000, stack)


@asynccontextmanager
async def watch_loop() -> AsyncIterator[None]:
    """Watch the running event loop while the context is open."""
    watch = _Watch()
    thread = threading.Thread(target=watch.look, name="orbit-watchdog", daemon=True)
    thread.start()
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_beat, watch)
            yield
            group.cancel_scope.cancel()
    finally:
        watch.stopped.set()


async def _beat(watch: _Watch) -> None:
    while True:
        watch.beat = time.monotonic()
        await anyio.sleep(BEAT)
