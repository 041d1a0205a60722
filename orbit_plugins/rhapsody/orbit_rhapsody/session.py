"""Do one user's work with tasks."""

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import msgpack

from orbit_core import PluginSession
from orbit_core.errors import BodyTooLarge, OrbitError

from .backends import DEFAULT
from .engine import Engine
from .errors import (
    BackendFailed,
    SessionInitializing,
    TaskGone,
    TooManyTasks,
    UnknownTask,
)
from .feed import Bulletin, Feed
from .intake import read
from .models import (
    BACKENDS,
    Cancelled,
    SessionState,
    SessionStatus,
    Statistics,
    TaskState,
)
from .options import SessionOptions
from .records import Ended, Row
from .specs import Policy, digest_of, named
from .statistics import Counts
from .task import LOST, Task, Work
from .values import pack, python_version

logger = logging.getLogger(__name__)

CANCELLED = "it was cancelled"
CLOSED = "its session was closed"


class RhapsodySession(PluginSession):
    """Hold one user's tasks; when it is closed, those that are not over are cancelled."""

    def __init__(
        self,
        sid: str,
        engine: Engine,
        background: Callable[..., None],
        backends: list[str] | None = None,
        **options: Any,
    ) -> None:
        """Share the plugin's engine; ``options`` are those of `SessionOptions`."""
        super().__init__(sid)
        offered = engine.settings.backends or BACKENDS
        default = DEFAULT if DEFAULT in offered else offered[0]
        self.backends = named(backends, offered, default)
        self._options = SessionOptions(**options)
        self._engine = engine
        self._background = background
        self._status: SessionState = "initializing"
        self._error: str | None = None
        self._initialized = anyio.Event()
        self._scope = anyio.CancelScope()
        self._tasks: dict[str, Task] = {}
        self._unwritten: dict[str, bytes] = {}
        self._counts = Counts()
        self.feed = Feed(sid, engine.archive, engine.settings.result_limit)
        self._bulletin = Bulletin(
            self._notify, self._options.notify_batch_window, int(self._options.notify_batch_size)
        )

    @property
    def is_busy(self) -> bool:
        """Tell whether a task is not over or somebody follows the results."""
        return bool(self._tasks) or self.feed.followers > 0

    async def start(self, *, restored: bool) -> None:
        """Have the backends start; tasks of before a restart are over."""
        if restored:
            last, lost = await self._engine.archive.unfinished(self.sid)
            self.feed.resume(last)
            for accepted in lost:
                task = self._task(accepted.number, Work(accepted.uid, self.backends[0], "function"))
                task.end(TaskState.FAILED, {"error": LOST})
        self._background(self._initialize)
        self._background(self._inform)

    async def close(self) -> dict[str, Any]:
        """Cancel what runs, and forget everything."""
        await super().close()
        await self._engine.cancel(list(self._tasks.values()), TaskState.CANCELED, CLOSED)
        await self.suspend()
        await self._engine.flush()
        await self._engine.archive.forget(self.sid)
        return {}

    async def suspend(self) -> None:
        """Let followers go."""
        self.feed.close()
        self._bulletin.flush()
        self._scope.cancel()

    async def _inform(self) -> None:
        with self._scope:
            await self._bulletin.run()

    def _notify(self, topic: str, data: Any) -> None:
        self.notify(topic, data)

    async def _initialize(self) -> None:
        try:
            for name in self.backends:
                await self._engine.ensure(name)
            self._status = "ready"
            self.notify("session_status", {"sid": self.sid, "status": "ready"})
        except BackendFailed as error:
            self._status, self._error = "failed", error.detail
            self.notify(
                "session_status", {"sid": self.sid, "status": "failed", "error": error.detail}
            )
        self._initialized.set()

    async def status(self, wait: float = 0.0) -> SessionStatus:
        """Return how the session is, at most ``wait`` seconds later if it still initialises."""
        with anyio.move_on_after(wait):
            await self._initialized.wait()
        return SessionStatus(
            self.sid, self._status, list(self.backends), python_version(), self._error
        )

    async def submit(
        self, raw: bytes, decode: Callable[[bytes], Any], key: str | None
    ) -> dict[str, str]:
        """Accept tasks, and return their states by uid: when this returns they are on disk.

        They begin a little earlier. The same ``key`` and body do so once.

        Raises SessionInitializing, BackendFailed, InvalidBody, UnknownFunction, PicklesRefused,
        PythonMismatch, DuplicateTask, TooManyTasks, BodyTooLarge, StateUnavailable.
        """
        uids, is_new = await self._accept(raw, decode, key)
        await self._engine.until_kept()
        if is_new:
            return dict.fromkeys(uids, TaskState.PENDING.value)
        found = await self._rows(uids)
        return {uid: str(row["state"]) for uid, row in found.items()}

    async def take(
        self, raw: bytes, decode: Callable[[bytes], Any], key: str, on_end: Callable[[], None]
    ) -> None:
        """Accept tasks, as `submit` does, and return when they wait for their turn.

        Who follows the results is told whether that went well, and ``on_end`` called, once they are
        on disk.
        """
        try:
            uids, _ = await self._accept(raw, decode, key)
        except OrbitError as error:
            self._decline(key, error)
            on_end()
            await anyio.lowlevel.checkpoint()  # refusing many in a row leaves time for others
        else:
            self._engine.when_kept(partial(self._tell_kept, key, uids, on_end))

    def _tell_kept(
        self, key: str, uids: list[str], on_end: Callable[[], None], error: OrbitError | None
    ) -> None:
        """Tell that a submit is on disk: no hurry where the results of all of it have gone out."""
        if error is None:
            self.feed.note({"accepted": key}, hurry=not self._tasks.keys().isdisjoint(uids))
        else:
            self._decline(key, error)
        on_end()

    def _decline(self, key: str, error: OrbitError) -> None:
        logger.debug("a submit to session %s is declined: %s", self.sid, error.detail)
        self.feed.note({"declined": key}, hurry=True)

    async def _accept(
        self, raw: bytes, decode: Callable[[bytes], Any], key: str | None
    ) -> tuple[list[str], bool]:
        """Write tasks down and have them begin; return their uids, and whether they are new."""
        self._check_ready()
        works = await read(raw, decode, self._policy())
        self._check_active()
        limit = self._engine.settings.pending_limit
        if len(works) > limit:
            raise BodyTooLarge(f"one request may have {limit} tasks here: send fewer at a time")
        if len(self._tasks) + len(works) > limit:
            raise TooManyTasks(
                f"session {self.sid} may have {limit} tasks that are not over: send these later",
                retry_after=1.0,
            )
        request = None if key is None else digest_of(key, raw)
        archive, uids = self._engine.archive, [work.uid for work in works]
        numbers = archive.numbers(len(works))
        with anyio.CancelScope(shield=True):
            is_new = await archive.accept(self.sid, request, numbers[0], uids)
            if is_new:
                self._begin(numbers, works)
        return uids, is_new

    def _begin(self, numbers: range, works: list[Work]) -> None:
        tasks = [self._task(number, work) for number, work in zip(numbers, works, strict=True)]
        self._counts.begin()
        self._engine.begin(tasks)

    def _task(self, number: int, work: Work) -> Task:
        task = Task(number, self.sid, work, self._on_change)
        self._tasks[work.uid] = task
        return task

    def _policy(self) -> Policy:
        settings = self._engine.settings
        trusted = settings.pickles_from is None or self.owner in settings.pickles_from
        digests = settings.pickled_functions
        return Policy(
            self.backends,
            settings.allow_pickled_tasks and self._options.allow_pickled_tasks and trusted,
            None if digests is None else frozenset(map(str.lower, digests)),
        )

    def _check_ready(self) -> None:
        self._check_active()
        if self._status == "initializing":
            raise SessionInitializing(f"session {self.sid} starts its backends: ask again soon")
        if self._status == "failed":
            raise BackendFailed(f"session {self.sid} takes no tasks: {self._error}")

    def _on_change(self, task: Task, fields: dict[str, Any]) -> None:
        if not task.state.is_final:
            self.feed.started(task.uid)
            if self._options.notify_tasks:
                self._bulletin.add({"uid": task.uid, "state": task.state})
            return
        finished = time.time()
        record: dict[str, Any] = {
            "uid": task.uid,
            "state": task.state.value,
            "backend": task.work.backend,
            "submitted": task.submitted,
            "started": task.started,
            "finished": finished,
            **fields,
        }
        record, body = self.feed.add(record)
        self._tasks.pop(task.uid, None)
        self._unwritten[task.uid] = body
        self._counts.end(task, str(record["state"]), finished)
        if self._options.notify_tasks:
            self._bulletin.add(record)
        end = Ended(task.number, record["seq"], str(record["state"]), finished, body)
        self._engine.keep(end, partial(self._written, task.uid, end.seq))

    def _written(self, uid: str, seq: int) -> None:
        self._unwritten.pop(uid, None)
        self.feed.kept(seq)

    async def wait(self, uids: list[str], timeout: float = 0.0) -> list[bytes]:
        """Return tasks as msgpack, once all are over or ``timeout`` seconds have passed.

        What is unknown or gone says so as its state. Nothing is cancelled. Raises UnknownTask if
        none is known.
        """
        with anyio.move_on_after(timeout):
            for uid in uids:
                while uid in self._tasks:
                    await self._tasks[uid].change()
        found = await self._bodies(uids)
        if not found:
            raise UnknownTask(f"session {self.sid} has had none of these tasks")
        return [found.get(uid) or pack({"uid": uid, "state": "UNKNOWN"}) for uid in uids]

    async def task(self, uid: str) -> dict[str, Any]:
        """Return a task, with its result if it is over. Raises UnknownTask, TaskGone."""
        found = (await self._rows([uid])).get(uid)
        if found is None:
            raise UnknownTask(f"session {self.sid} has had no task {uid}")
        if found["state"] == "GONE":
            raise TaskGone(f"the result of task {uid} is not kept any longer")
        return found

    async def list_tasks(self) -> list[dict[str, Any]]:
        """Return the session's tasks without their results, oldest first."""
        rows = await self._engine.archive.uids(self.sid)
        return [{"uid": row.uid, "state": row.state or self._state(row.uid)} for row in rows]

    def _state(self, uid: str) -> str:
        if uid in self._tasks:
            return self._tasks[uid].state.value
        return str(msgpack.unpackb(self._unwritten[uid])["state"])

    async def _rows(self, uids: list[str]) -> dict[str, dict[str, Any]]:
        bodies = await self._bodies(uids)
        return {uid: msgpack.unpackb(body) for uid, body in bodies.items()}

    async def _bodies(self, uids: list[str]) -> dict[str, bytes]:
        """Return what is known of tasks, as msgpack."""
        found: dict[str, bytes] = {}
        for uid in uids:
            if uid in self._tasks:
                found[uid] = pack(self._tasks[uid].snapshot())
            elif uid in self._unwritten:
                found[uid] = self._unwritten[uid]
        missing = [uid for uid in uids if uid not in found]
        rows = await self._engine.archive.find(self.sid, missing) if missing else {}
        return found | {uid: _body(row) for uid, row in rows.items()}

    async def cancel(self, uid: str) -> Cancelled:
        """Cancel a task; one that is over stays as it is. Raises UnknownTask, TaskGone."""
        task = self._tasks.get(uid)
        if task is None:
            return Cancelled(uid, str((await self.task(uid))["state"]).lower())
        await self._engine.cancel([task], TaskState.CANCELED, CANCELLED)
        return Cancelled(uid, task.state.lower() if task.state.is_final else "canceling")

    async def cancel_all(self, uids: list[str] | None = None) -> int:
        """Cancel the tasks that are not over, or those of ``uids``, and return how many."""
        chosen = self._tasks.values() if uids is None else map(self._tasks.get, uids)
        tasks = [task for task in chosen if task is not None]
        await self._engine.cancel(tasks, TaskState.CANCELED, CANCELLED)
        return len(tasks)

    def statistics(self) -> Statistics:
        """Count the tasks."""
        return self._counts.statistics(Counter(task.state.value for task in self._tasks.values()))

    def results(self, after: int) -> AsyncIterator[bytes]:
        """Return an iterator over results as they come, those before number ``after`` left out."""
        return self.feed.follow(after)


def _body(row: Row) -> bytes:
    if row.body is not None:
        return row.body
    state = "GONE" if row.state is not None else TaskState.PENDING
    return pack({"uid": row.uid, "state": state})
