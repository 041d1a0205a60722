"""Run functions that block, one after the other, in a thread of its own.

anyio's threads serve everybody, and take four times as long from call to answer: where each task
waits for one, that is a sixth of the time that a short one takes.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import anyio

T = TypeVar("T")

_Job = tuple["asyncio.Future[Any]", Callable[[], Any]]


class WorkerStopped(Exception):
    """Report that a worker takes no more functions."""


class Worker:
    """Be such a thread; made on the event loop."""

    def __init__(self, name: str) -> None:
        """Start it; ``name`` is what it is called in lists of threads."""
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._is_stopped = False
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def run(  # type: ignore[return]  # a shield swallows nothing
        self, function: Callable[..., T], *arguments: object
    ) -> T:
        """Return what ``function(*arguments)`` does there; a cancelled scope waits for it, too.

        Raises WorkerStopped, and what the function does.
        """
        if self._is_stopped:
            raise WorkerStopped("its thread has stopped")
        done: asyncio.Future[T] = self._loop.create_future()
        with anyio.CancelScope(shield=True):
            self._jobs.put((done, partial(function, *arguments)))
            return await done

    def stop(self) -> None:
        """Have the thread end once it has done what it was given."""
        self._is_stopped = True
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            done, call = job
            try:
                tell = partial(_settle, done, call())
            except StopIteration as error:  # a future takes none
                tell = partial(_fail, done, RuntimeError(f"{call} raised {error!r}"))
            except BaseException as error:  # noqa: BLE001  # raised where it is waited for
                tell = partial(_fail, done, error)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(tell)
            del job, done, call, tell


def _settle(done: "asyncio.Future[Any]", value: object) -> None:
    if not done.done():
        done.set_result(value)


def _fail(done: "asyncio.Future[Any]", error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
