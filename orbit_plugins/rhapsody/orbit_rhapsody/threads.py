"""Run functions in threads that never keep an endpoint from ending."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

_Job = tuple[Future[Any], Callable[[], Any]]


class DaemonThreads(ThreadPoolExecutor):
    """Be a pool of daemon threads.

    The standard library's pool is joined when Python ends, for ever if a function never returns.
    RHAPSODY asks for a ``ThreadPoolExecutor``.
    """

    def __init__(self, workers: int) -> None:
        """Start ``workers`` threads."""
        super().__init__(workers)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._given_up: set[int] = set()
        for _ in range(workers):
            self._add_thread()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn`` in one of the threads."""
        future: Future[Any] = Future()
        self._jobs.put((future, lambda: fn(*args, **kwargs)))
        return future

    def replace(self, thread: int) -> None:
        """Give up on a thread that an abandoned function holds: another takes its place.

        ``thread`` is its identifier. It ends with the function, if that ever ends.
        """
        self._given_up.add(thread)
        self._add_thread()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end with their present functions, without waiting for them."""
        for _ in range(self._max_workers):
            self._jobs.put(None)

    def _add_thread(self) -> None:
        threading.Thread(target=self._work, name="orbit function", daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, call = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  # handed to whoever waits
                future.set_exception(error)
            del job, future, call
            if threading.get_ident() in self._given_up:
                self._given_up.remove(threading.get_ident())
                return
