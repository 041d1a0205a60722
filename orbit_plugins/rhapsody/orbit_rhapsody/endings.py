"""Tell from what RHAPSODY left in a task how it ended."""

import os
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread

from .calls import Outcome, failure
from .models import TaskState
from .task import Task
from .values import encode

GATHERING = 0.005
"""Seconds after which output is read again: what ends meanwhile is read, kept and told together."""

_TEXT_KEYS = ("stdout", "stderr")
_Ending = tuple[Task, TaskState, dict[str, Any]]


class Endings:
    """End tasks, those with output in files once that is read."""

    def __init__(self) -> None:
        """Begin with nothing to read; made on the event loop."""
        self._unread: list[_Ending] = []
        self._wake = anyio.Event()

    def note(self, task: Task, future: Any) -> None:
        """End a task as its future did; a verdict of ours outweighs that."""
        found = task.native.get("return_value")
        if isinstance(found, Outcome) and not future.cancelled():
            state = TaskState.DONE if found.succeeded else TaskState.FAILED
            task.end(state, {**found.fields, "exit_code": 0 if found.succeeded else 1})
            return
        state, fields = _judge(task, future)
        if task.native.get("capture_stdio"):
            self._unread.append((task, state, fields))
            self._wake.set()
        else:
            task.end(state, fields)

    async def run(self) -> None:
        """Read output until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            unread, self._unread = self._unread, []
            await anyio.to_thread.run_sync(_read_all, unread)
            for task, state, fields in unread:
                task.end(state, fields)
            await anyio.sleep(GATHERING)


def _judge(task: Task, future: Any) -> tuple[TaskState, dict[str, Any]]:
    native = task.native
    error = None if future.cancelled() else future.exception()
    fields: dict[str, Any] = {"exit_code": native.get("exit_code")}
    if task.work.kind == "executable":
        if fields["exit_code"] is None and not future.cancelled():
            fields["exit_code"] = _exit_code(error)
        fields |= {key: native.get(key) or "" for key in _TEXT_KEYS}
    elif error is None:
        fields |= encode(native.get("return_value"))
        if native.get("response") is not None:
            fields["response"] = encode(native["response"])["return_value"]
    if error is None and not future.cancelled():
        return TaskState.DONE, fields
    reason = native.get("exception")
    if isinstance(reason, SystemExit) and task.work.kind == "executable":
        fields["error"] = _reason(fields["exit_code"])
    elif isinstance(reason, OSError) and task.work.kind == "executable":
        fields["error"] = f"{task.work.fields['executable']} could not be started: {reason}"
        fields["stderr"] = ""  # RHAPSODY puts the reason there, too: no program wrote it
    elif isinstance(reason, BaseException):
        fields |= failure(reason)
    else:
        fields["error"] = _reason(fields["exit_code"])
    return TaskState.FAILED, fields


def _exit_code(error: BaseException | None) -> Any:
    """Return an exit code as Dragon tells it: 0 by its return, another one as a ``SystemExit``."""
    if error is None:
        return 0
    return error.code if isinstance(error, SystemExit) else None


def _reason(exit_code: object) -> str:
    if isinstance(exit_code, int) and exit_code < 0:
        return f"it was ended by signal {-exit_code}"
    return f"it ended with exit code {exit_code}"


def _read_all(endings: list[_Ending]) -> None:
    for _, _, fields in endings:
        for key in _TEXT_KEYS:
            fields[key] = _read_output(fields[key])


def _read_output(path: str) -> str:
    """Return the text in the file that RHAPSODY names and remove it; no file is no output.

    What is no UTF-8 becomes U+FFFD.
    """
    if not path.startswith("/"):
        return path
    with suppress(OSError):
        with open(path, "rb") as file:  # a Path costs as much as the read
            text = file.read().decode("utf-8", "replace")
        os.unlink(path)
        return text
    return ""
