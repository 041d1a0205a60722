"""Run tasks and Python functions on an ORBIT endpoint through RHAPSODY.

This is what a user imports; it needs no RHAPSODY.
"""

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

__all__ = [
    "BackendFailed",
    "DuplicateTask",
    "NotPicklable",
    "Pickled",
    "PicklesRefused",
    "PythonMismatch",
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
