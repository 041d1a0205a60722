"""Make blocking calls that may never return: a dead mount, a tool waiting for a dead device."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import attrs

logger = logging.getLogger(__name__)

T = TypeVar("T")


@attrs.define(eq=False)
class _Answer(Generic[T]):
    value: T | None = None
    given: anyio.Event = attrs.field(factory=anyio.Event)


class Probe:
    """Run blocking calls in threads, each with a deadline, none twice at once.

    The threads are daemons, which anyio's are not: one that hangs must not keep the process from
    ending, nor use up the threads of everybody else.
    """

    def __init__(self) -> None:
        """Start with nothing running."""
        self._running: set[str] = set()

    async def call(self, key: str, function: Callable[[], T], deadline: float) -> T | None:
        """Return what ``function`` returns, or None after ``deadline`` seconds.

        A call that did not return is left behind in its thread. Until it does return, calls with
        the same ``key`` answer None at once: a dead mount costs one thread, not one per question.
        """
        if key in self._running:
            return None
        self._running.add(key)
        answer = _Answer[T]()
        token = anyio.lowlevel.current_token()

        def deliver(value: T | None) -> None:
            self._running.discard(key)
            answer.value = value
            answer.given.set()

        def run() -> None:
            value: T | None = None
            try:
                value = function()
            finally:
                with suppress(RuntimeError):  # the loop may be over by now
                    anyio.from_thread.run_sync(deliver, value, token=token)

        threading.Thread(target=run, name=f"probe {key}", daemon=True).start()
        with anyio.move_on_after(deadline):
            await answer.given.wait()
            return answer.value
        logger.warning("%s did not answer within %g s", key, deadline)
        return None
