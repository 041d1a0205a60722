"""Own background tasks for as long as a context is open."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol, Self

import anyio
from anyio.abc import TaskGroup


class Starter(Protocol):
    """Start tasks that somebody else ends: a task group, or `LightTasks`."""

    def start_soon(
        self, function: Callable[..., Coroutine[Any, Any, None]], /, *args: Any
    ) -> object:
        """Run ``function`` in a task."""
        ...


class LightTasks:
    """Start many short tasks that catch their own failures, at a fifth of a task group's price.

    Leaving it, as an asynchronous context manager, cancels what still runs.
    """

    def __init__(self) -> None:
        """Own no tasks yet."""
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, None]], /, *args: Any) -> None:
        """Run ``function`` in a task."""
        task = self._loop.create_task(function(*args))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def __aenter__(self) -> Self:
        """Start tasks from now on."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Cancel what still runs and wait for it."""
        for task in self._tasks:
            task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def open_tasks() -> AsyncIterator[TaskGroup]:
    """Open a task group; leaving the context cancels what still runs.

    A lone failure, of the body or of a task, comes out as itself and not in an ExceptionGroup, so
    that whoever opens a store or a host can catch what its documentation says it raises.
    """
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as group:
            yield group
            group.cancel_scope.cancel()
    except BaseExceptionGroup as failures:
        failure = failures.exceptions[0] if len(failures.exceptions) == 1 else failures
    if failure is not None:
        raise failure
