"""Own background tasks for as long as a context is open."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup


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
