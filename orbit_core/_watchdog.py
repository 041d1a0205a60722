"""Log who blocks the event loop, with the stack, while it happens."""

import logging
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from ._tasks import open_tasks

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
                stack = traceback.format_stack(sys._current_frames()[self._thread])
                logger.warning(
                    "the event loop has not turned for %.0f ms; it is at\n%s",
                    silence * 1000,
                    "".join(stack),
                )


@asynccontextmanager
async def watch_loop() -> AsyncIterator[None]:
    """Watch the running event loop while the context is open."""
    watch = _Watch()
    thread = threading.Thread(target=watch.look, name="orbit-watchdog", daemon=True)
    thread.start()
    try:
        async with open_tasks() as group:
            group.start_soon(_beat, watch)
            yield
    finally:
        watch.stopped.set()
        thread.join()


async def _beat(watch: _Watch) -> None:
    while True:
        watch.beat = time.monotonic()
        await anyio.sleep(BEAT)
