"""Keep one backend busy with some tasks at a time, taken from the sessions in turn."""

import logging
import os
from collections import OrderedDict, deque
from typing import Any

import anyio

from .backends import AnyBackend
from .endings import Endings
from .models import TaskState
from .processes import VARIABLE
from .task import LOST, Task

logger = logging.getLogger(__name__)

FEW = 64
"""How many running tasks are so few that each that ends is replaced at once."""


class Lane:
    """Hold the tasks that wait for one backend, and hand them over while there is room."""

    def __init__(
        self, backend: AnyBackend, limit: int, mark: str, endings: Endings, spacing: float = 0.0
    ) -> None:
        """Let ``limit`` tasks run at a time; ``mark`` begins the marks of their processes.

        Tasks whose turn comes within ``spacing`` seconds are handed over together.
        """
        self.backend = backend
        self._limit = limit
        self._least = 1 if limit < FEW else limit // 2
        self._endings = endings
        self._spacing = spacing
        self._mark = mark
        self._environment = dict(os.environ)  # once: each look decodes every variable
        self._waiting: OrderedDict[str, deque[Task]] = OrderedDict()
        self._running = 0
        self._by_uid: dict[str, Task] = {}
        self._wake = anyio.Event()

    def add(self, tasks: list[Task]) -> None:
        """Have tasks of one session wait for their turn."""
        self._waiting.setdefault(tasks[0].sid, deque()).extend(tasks)
        self._wake.set()

    async def run(self) -> None:
        """Hand tasks over until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            while batch := self._take():
                await self._hand_over(batch)
                if self._spacing:
                    await anyio.sleep(self._spacing)

    def stop(self) -> list[Task]:
        """Hand nothing over any more, and return the executables that the endpoint is to end."""
        self._limit = 0
        running = [task for task in self._by_uid.values() if task.work.kind == "executable"]
        for task in running:
            if task.verdict is None:
                task.verdict, task.reason = TaskState.FAILED, LOST
        return running

    def _take(self) -> list[Task]:
        """Return the next tasks, one of each session in turn, if that is worth the while."""
        room = self._limit - self._running
        batch: list[Task] = []
        if room < self._least:
            return batch
        while self._waiting and len(batch) < room:
            sid, tasks = self._waiting.popitem(last=False)
            # A session alone gets all the room; else they alternate.
            share = room - len(batch) if not self._waiting else 1
            while tasks and share:
                task = tasks.popleft()
                if not task.state.is_final:
                    batch.append(task)
                    share -= 1
            if tasks:
                self._waiting[sid] = tasks
        return batch

    async def _hand_over(self, batch: list[Task]) -> None:
        self._running += len(batch)
        for task in batch:
            task.start(self._native(task))
            self._by_uid[task.native["uid"]] = task
        try:
            await self.backend.submit([task.native for task in batch], self._on_end)
        except Exception as error:  # a backend may refuse in any way
            logger.exception("backend %s does not take tasks", self.backend.name)
            self._running -= len(batch)
            for task in batch:
                del self._by_uid[task.native["uid"]]
                text = f"backend {self.backend.name} does not take it: {error}"
                task.end(TaskState.FAILED, {"error": text})

    def _native(self, task: Task) -> Any:
        work, uid = task.work, f"orbit.{task.number}"
        match work.kind:
            case "function":
                return self.backend.make(uid, is_ai=False, function=work.call)
            case "ai":
                return self.backend.make(uid, is_ai=True, **work.fields)
            case "executable":
                options = work.fields["task_backend_specific_kwargs"]
                mark = f"{self._mark}/{task.number}"
                environment = {**self._environment, **work.environment, VARIABLE: mark}
                fields = {
                    **work.fields,
                    "task_backend_specific_kwargs": {**options, "env": environment},
                    "capture_stdio": self.backend.name == "concurrent",
                }
                return self.backend.make(uid, is_ai=False, **fields)

    def _on_end(self, native: Any, future: object) -> None:
        task = self._by_uid.pop(native["uid"])
        self._running -= 1
        if self._waiting and self._limit - self._running >= self._least:
            self._wake.set()
        self.backend.forget(native)
        self._endings.note(task, future)
