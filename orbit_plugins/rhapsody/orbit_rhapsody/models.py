"""Name the values of tasks: states, settings, what is answered."""

from enum import StrEnum
from typing import Literal

import attrs

from orbit_core.models import SessionReply


class TaskState(StrEnum):
    """Say where a task is; only the last three are final.

    PENDING waits at the endpoint, RUNNING has been handed to its backend.
    """

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def is_final(self) -> bool:
        """Tell whether a task in this state is over."""
        return self in _FINAL


_FINAL = (TaskState.DONE, TaskState.FAILED, TaskState.CANCELED)

BACKENDS = ("concurrent", "dask", "dragon_v3", "noop")
"""RHAPSODY's backends that a session may ask for."""


@attrs.frozen
class RhapsodySettings:
    """Configure the plugin at an endpoint, in ``[plugin.rhapsody]``.

    ``executables`` and ``function_workers`` are how many run at a time on ``concurrent`` (0: one
    for each processor, and at least sixteen executables); ``function_processes`` runs functions
    in processes instead of threads. ``pickles_from`` are the owners whose pickles are opened (None:
    everybody's) and ``pickled_functions`` the SHA-256 digests, in hex, of the only ones that are.
    ``pending_limit`` bounds the tasks of one session that are not over, ``submit_limit`` the bytes
    of one submit, and ``result_limit`` those of one result. Results are kept ``keep_days`` days, at
    most ``keep_count`` of them and ``keep_bytes`` bytes.
    """

    backends: list[str] | None = None
    executables: int = 0
    function_workers: int = 0
    function_processes: bool = False
    allow_pickled_tasks: bool = True
    pickles_from: list[str] | None = None
    pickled_functions: list[str] | None = None
    telemetry: bool = False
    pending_limit: int = 1_000_000
    submit_limit: int = 1024**3
    result_limit: int = 1024**3
    keep_days: float = 14.0
    keep_count: int = 1_000_000
    keep_bytes: int = 8 * 1024**3


SessionState = Literal["initializing", "ready", "failed"]


@attrs.frozen
class Opened(SessionReply):
    """Name a session whose backends start meanwhile."""

    status: SessionState = "initializing"


@attrs.frozen
class SessionStatus:
    """Say whether a session takes tasks yet, on which backends and in which Python."""

    sid: str
    status: SessionState
    backends: list[str]
    python: str
    error: str | None = None


@attrs.frozen
class Cancelled:
    """Confirm a cancellation: ``canceled``, or how the task had ended before."""

    uid: str
    status: str


@attrs.frozen
class BackendStatistics:
    """Count one backend's tasks; seconds are sums over the tasks that are over."""

    states: dict[str, int]
    wait_seconds: float
    run_seconds: float


@attrs.frozen
class Statistics:
    """Count a session's tasks since it was opened or its endpoint started.

    ``rate`` is tasks per second that ended, from the first submit to the last end.
    """

    states: dict[str, int]
    backends: dict[str, BackendStatistics]
    rate: float
    mean_wait_seconds: float
    mean_run_seconds: float
