"""Make blocking calls that may never return: a dead mount, a tool waiting for a dead device."""

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

logger = logging.getLogger(__name__)

T = TypeVar("T")

THREADS = 32
"""Calls at a time; apart from the host's own threads, so that dead mounts cannot use those up."""


class Probe:
    """Run blocking calls in threads, each with a deadline, none twice at once."""

    def __init__(self) -> None:
        """Start with nothing running."""
        self._limiter = anyio.CapacityLimiter(THREADS)
        self._running: set[str] = set()
        self._lock = threading.Lock()

    async def call(self, key: str, function: Callable[[], T], deadline: float) -> T | None:
        """Return what ``function`` returns, or None after ``deadline`` seconds.

        A call that did not return is left behind in its thread. Until it does return, calls with
        the same ``key`` answer None at once: a dead mount costs one thread, not one per question.
        """
        with anyio.move_on_after(deadline):
            return await anyio.to_thread.run_sync(
                self._run, key, function, abandon_on_cancel=True, limiter=self._limiter
            )
        logger.warning("%s did not answer within %g s", key, deadline)
        return None

    def _run(self, key: str, function: Callable[[], T]) -> T | None:
        with self._lock:
            if key in self._running:
                return None
            self._running.add(key)
        try:
            return function()
        finally:
            with self._lock:
                self._running.discard(key)
