from .async_executor import AsyncOrbitExecutor
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
from .executor import OrbitExecutor
from .futures import AsyncOrbitFuture, OrbitFuture, RemoteTraceback
from .models import TaskState
from .values import Pickled

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
