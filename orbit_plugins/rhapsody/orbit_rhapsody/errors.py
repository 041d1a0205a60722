"""Name what can go wrong with tasks.

Importing this module is what lets a client raise these classes again from a reply's ``code``.
"""

from orbit_core.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    Gone,
    InternalError,
    NotFound,
    OrbitError,
    TooManyRequests,
)


class UnknownTask(NotFound):
    """Answer for a uid that this session never submitted."""

    code = "unknown_task"


class TaskGone(Gone):
    """Answer for a task whose result was kept as long as the endpoint keeps results."""

    code = "task_gone"


class DuplicateTask(Conflict):
    """Refuse a uid that the session has used."""

    code = "duplicate_task"


class SessionInitializing(Conflict):
    """Refuse work as long as the session's backends start."""

    code = "session_initializing"


class BackendFailed(InternalError):
    """Report that a backend of the session did not start, with its reason."""

    code = "backend_failed"


class UnknownFunction(BadRequest):
    """Refuse a function that cannot be imported or unpickled at the endpoint."""

    code = "unknown_function"


class PicklesRefused(Forbidden):
    """Refuse pickled functions or arguments, which may do anything when they are opened."""

    code = "pickles_refused"


class PythonMismatch(Conflict):
    """Refuse pickled functions between different minor versions of Python."""

    code = "python_mismatch"


class TooManyTasks(TooManyRequests):
    """Refuse more tasks until some of those that wait are over."""

    code = "too_many_tasks"


class TaskFailed(OrbitError):
    """Report at the client that a task ended other than by returning, with its last words."""

    code = "task_failed"


class TaskCancelled(TaskFailed):
    """Report at the client that a task was cancelled."""

    code = "task_cancelled"


class NotPicklable(BadRequest):
    """Report at the client which function or argument cannot be sent, and why."""

    code = "not_picklable"
