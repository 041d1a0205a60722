"""Hold one task in memory, from its acceptance to its end."""

import time
from collections.abc import Callable
from typing import Any, Literal

import anyio
import attrs

from .calls import Call
from .models import TaskState

Kind = Literal["function", "executable", "ai"]

LOST = "the endpoint ended before this task did, and the task with it"


@attrs.define(eq=False)
class Work:
    """Say what is to be done, checked: a call, or the fields of RHAPSODY's task.

    ``timeout`` is in seconds, from when the task is handed to its backend.
    """

    uid: str
    backend: str
    kind: Kind
    call: Call | None = None
    fields: dict[str, Any] = attrs.field(factory=dict)
    environment: dict[str, str] = attrs.field(factory=dict)
    timeout: float | None = None


@attrs.define(eq=False)
class Task:
    """Be one task that is not over; ``on_change`` hears of its states, with its result at the end.

    ``verdict`` is how it ends whatever its backend says, once it was cancelled or its time was up.
    """

    number: int
    sid: str
    work: Work
    on_change: Callable[["Task", dict[str, Any]], None]
    state: TaskState = TaskState.PENDING
    submitted: float = attrs.field(factory=time.time)
    started: float | None = None
    native: Any = None
    verdict: TaskState | None = None
    reason: str | None = None
    _changed: anyio.Event | None = attrs.field(default=None, init=False)

    @property
    def uid(self) -> str:
        """Return what its session calls it."""
        return self.work.uid

    def start(self, native: Any) -> None:
        """Note that it has been handed to its backend as ``native``."""
        self.native = native
        self.state = TaskState.RUNNING
        self.started = time.time()
        self.on_change(self, {})
        self._tell()

    def end(self, state: TaskState, fields: dict[str, Any]) -> None:
        """Note its end, once; a verdict outweighs ``state``."""
        if self.state.is_final:
            return
        if self.verdict is not None:
            state = self.verdict
        if self.reason is not None:
            fields["error"] = self.reason
        self.state = state
        self.on_change(self, fields)
        self._tell()

    async def change(self) -> None:
        """Wait for the next change of its state."""
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    async def until_over(self) -> None:
        """Wait for its end."""
        while not self.state.is_final:
            await self.change()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def snapshot(self) -> dict[str, Any]:
        """Return what is to be said of a task that is not over."""
        return {"uid": self.uid, "state": self.state, "backend": self.work.backend}
