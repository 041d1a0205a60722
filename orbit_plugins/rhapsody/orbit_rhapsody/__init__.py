"""Run tasks and Python functions on an ORBIT endpoint through RHAPSODY.

This is what a user imports; it needs no RHAPSODY. The executors are imported when they are first
asked for: an endpoint, which serves the plugin, does not wait for them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .client import RhapsodyClient
from .errors import (
    BackendFailed,
    DuplicateTask,
    NotPicklable,
    PicklesRefused,
    PythonMismatch,
    SessionInitializing,
    TaskCancelled,
    TaskFailed,
    TaskGone,
    TooManyTasks,
    UnknownFunction,
    UnknownTask,
)
from .models import TaskState
from .values import Pickled

if TYPE_CHECKING:
    from .async_executor import AsyncOrbitExecutor
    from .executor import OrbitExecutor
    from .futures import AsyncOrbitFuture, OrbitFuture, RemoteTraceback

__all__ = [
    "AsyncOrbitExecutor",
    "AsyncOrbitFuture",
    "BackendFailed",
    "DuplicateTask",
    "NotPicklable",
    "OrbitExecutor",
    "OrbitFuture",
    "Pickled",
    "PicklesRefused",
    "PythonMismatch",
    "RemoteTraceback",
    "RhapsodyClient",
    "SessionInitializing",
    "TaskCancelled",
    "TaskFailed",
    "TaskGone",
    "TaskState",
    "TooManyTasks",
    "UnknownFunction",
    "UnknownTask",
]

_MODULES = {
    "AsyncOrbitExecutor": "async_executor",
    "AsyncOrbitFuture": "futures",
    "OrbitExecutor": "executor",
    "OrbitFuture": "futures",
    "RemoteTraceback": "futures",
}


def __getattr__(name: str) -> Any:
    """Import what belongs to the executors."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
