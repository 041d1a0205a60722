"""Carry an executor's calls to one session, and their results back.

A call is sent at once if all before it have arrived; those that come meanwhile travel together.
They arrive in order.
"""

import logging
import secrets
import threading
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from orbit_core.errors import OrbitError, TooManyRequests

from .client import AWAY, BATCH_BYTES, BATCH_TASKS, RETRY_PAUSE, RhapsodyClient
from .errors import SessionInitializing, UnknownTask
from .futures import Settled, fail, settle
from .line import Line
from .packing import pack_batch

logger = logging.getLogger(__name__)

UNSENT = 20_000
UNSENT_BYTES = 64 * 1024 * 1024
"""Calls and bytes that wait to be sent, from which a submit waits."""

LONGEST_PAUSE = 2.0

REQUESTS = 4
"""Requests of their own that wait for an answer at a time. An endpoint begins before its disk lets
it answer, so that a result may tell earlier than the answer that a request has arrived."""

Task = dict[str, Any]


class Channel:
    """Keep the calls of one session that are not over; `push` and `cancel` serve any thread."""

    def __init__(self, client: RhapsodyClient, patience: float) -> None:
        """Give the endpoint up after ``patience`` seconds away. Made on the event loop."""
        self.client = client
        self._patience = patience
        self._prefix = f"{client.sid}:{secrets.token_hex(4)}:"
        self._numbers = count()
        self._pending: dict[str, Settled] = {}
        self._queue: deque[tuple[Task, int]] = deque()
        self._bytes = 0
        self._cancelled: deque[str] = deque()
        self._under_way: set[str] = set()
        self._requests = anyio.Semaphore(REQUESTS)
        self._latest: set[str] = set()
        self._has_arrived = anyio.Event()
        self._after = 0
        self._broken: OrbitError | None = None
        self._loop: Any = anyio.lowlevel.current_token().native_token
        self._is_awake = False
        self._wake = anyio.Event()
        self._is_called_back = anyio.Event()
        self._changed = anyio.Event()
        self._room = threading.Condition()

    def new_uid(self) -> str:
        """Return a uid that nobody else has; the session is in it."""
        return f"{self._prefix}{next(self._numbers)}"

    @property
    def is_full(self) -> bool:
        """Tell whether a submit should wait."""
        return len(self._queue) >= UNSENT or self._bytes >= UNSENT_BYTES

    def wait_for_room(self) -> None:
        """Wait, in a thread of the user's, until some of what waits is sent."""
        with self._room:
            self._room.wait_for(lambda: not self.is_full or self._broken is not None)

    async def until_room(self) -> None:
        """Wait until some of what waits is sent."""
        while self.is_full and self._broken is None:
            await self._change()

    def push(self, task: Task, size: int, future: Settled) -> None:
        """Have a call sent. Raises the error for which no more are, if there is one."""
        if self._broken is not None:
            raise self._broken
        self._pending[future.uid] = future
        self._queue.append((task, size))
        self._bytes += size
        self._rouse()

    def future(self, uid: str) -> Settled | None:
        """Return the future of a call that is not over."""
        return self._pending.get(uid)

    def expect(self, future: Settled) -> None:
        """Have a future settled whose call was sent long ago."""
        self._pending[future.uid] = future

    def cancel(self, uid: str) -> None:
        """Have a call cancelled at the endpoint, if it was sent."""
        self._cancelled.append(uid)
        self._loop.call_soon_threadsafe(self._call_back)

    def pending(self) -> list[Settled]:
        """Return the futures that are not settled."""
        return list(self._pending.values())

    async def until_over(self) -> None:
        """Wait until every future is settled."""
        while self._pending or self._cancelled:
            await self._change()

    async def until_sent(self) -> None:
        """Wait until no call is left that the endpoint has not answered for."""
        while self._queue or self._under_way:
            await self._change()

    def _rouse(self) -> None:
        if not self._is_awake:
            self._is_awake = True
            self._loop.call_soon_threadsafe(lambda: self._wake.set())

    def _call_back(self) -> None:
        self._is_called_back.set()

    async def _change(self) -> None:
        if self._changed.is_set():
            self._changed = anyio.Event()
        await self._changed.wait()

    def start(self, group: TaskGroup) -> None:
        """Carry calls and results in ``group`` from now on."""
        self._group = group
        self._line = Line(self.client, group)
        for work in (self._run_sender, self._run_canceller, self._run_receiver):
            group.start_soon(self._run, work)

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do a part of the work until cancelled; if it fails, no future waits for it for ever."""
        try:
            await work()
        except Exception as error:  # a fault of ours must not be a silent hang
            logger.exception("the channel of session %s failed", self.client.sid)
            self._break(OrbitError(f"the executor failed: {type(error).__name__}: {error}"))

    async def _run_sender(self) -> None:
        """Send what waits, until cancelled."""
        while True:
            if not self._queue:
                await self._wake.wait()
                self._wake = anyio.Event()
                self._is_awake = False
            self._send(self._take())
            await self._has_arrived.wait()

    def _send(self, tasks: list[Task]) -> None:
        """Send tasks, on the line if they are few, or else in a request of their own."""
        self._latest = {task["uid"] for task in tasks}
        self._under_way |= self._latest
        self._has_arrived = anyio.Event()
        on_end = partial(self._be_sent, self._latest, self._has_arrived)
        if not tasks:
            on_end()
            return
        key, batch = uuid.uuid4().hex, pack_batch(tasks)
        apart = partial(self._send_apart, tasks, key, batch, on_end)
        self._line.send(key, batch, on_end, lambda: self._group.start_soon(self._run, apart))

    async def _send_apart(
        self, tasks: list[Task], key: str, batch: bytes, on_end: Callable[[], None]
    ) -> None:
        async with self._requests:
            await self._deliver(tasks, key, batch)
        on_end()

    def _be_sent(self, uids: set[str], has_arrived: anyio.Event) -> None:
        has_arrived.set()
        self._under_way -= uids
        if self._cancelled:
            self._call_back()
        self._changed.set()

    def _take(self) -> list[Task]:
        tasks: list[Task] = []
        size = 0
        while self._queue and len(tasks) < BATCH_TASKS:
            if tasks and size + self._queue[0][1] > BATCH_BYTES:
                break
            task, added = self._queue.popleft()
            self._bytes -= added
            if task["uid"] in self._pending:
                tasks.append(task)
                size += added
        with self._room:
            self._room.notify_all()
        return tasks

    async def _run_canceller(self) -> None:
        """Call back what is cancelled, once it has arrived, until cancelled."""
        while True:
            await self._is_called_back.wait()
            self._is_called_back = anyio.Event()
            uids: list[str] = []
            early: list[str] = []
            while self._cancelled:
                uid = self._cancelled.popleft()
                (early if uid in self._under_way else uids).append(uid)
                self._pending.pop(uid, None)
            self._cancelled.extend(early)
            if uids:
                with suppress(OrbitError):  # the endpoint is away: its user waits for nothing more
                    await self.client.cancel_all_tasks(uids)
                self._changed.set()

    async def _deliver(self, tasks: list[Task], key: str, batch: bytes) -> None:
        """Send tasks in a request of their own; where one is refused, find out which."""
        try:
            await self._persist(lambda: self.client.submit_packed(batch, key))
        except OrbitError as error:
            if len(tasks) == 1 or isinstance(error, AWAY):
                self._fail([task["uid"] for task in tasks], error)
                return
            half = len(tasks) // 2
            for part in (tasks[:half], tasks[half:]):
                await self._deliver(part, uuid.uuid4().hex, pack_batch(part))

    async def _persist(self, act: Callable[[], Any]) -> None:
        """Try again while the endpoint is away, starts or has enough to do. Raises OrbitError."""
        give_up, pause = time.monotonic() + self._patience, RETRY_PAUSE
        while True:
            try:
                await act()
                return
            except TooManyRequests as error:
                pause = error.retry_after or pause
            except (*AWAY, SessionInitializing):
                if time.monotonic() > give_up:
                    raise
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _run_receiver(self) -> None:
        """Settle futures as results come, until cancelled; a broken stream goes on where it was."""
        since, pause = time.monotonic(), RETRY_PAUSE
        while True:
            try:
                async for result in self.client.results(self._after):
                    self._take_result(result)
                    since, pause = time.monotonic(), RETRY_PAUSE
            except AWAY as error:
                if self._pending and time.monotonic() - since > self._patience:
                    self._fail(list(self._pending), error)
            except OrbitError as error:
                self._break(error)
                return
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _take_result(self, result: dict[str, Any]) -> None:
        if "seq" not in result:
            self._take_news(result)
            return
        self._after = max(self._after, result["seq"])
        if result["uid"] in self._latest:
            self._has_arrived.set()
        future = self._pending.pop(result["uid"], None)
        if future is not None:
            settle(future, result)
            self._changed.set()

    def _take_news(self, news: dict[str, Any]) -> None:
        for uid in news.get("running", ()):
            if uid in self._pending:
                self._pending[uid].begin()
        for word in ("accepted", "declined"):
            if word in news:
                self._line.hear(news[word], is_accepted=word == "accepted")

    def _break(self, error: OrbitError) -> None:
        """Give everything up: the session is no more, or not ours."""
        self._broken = error
        self._fail(list(self._pending), error)
        with self._room:
            self._room.notify_all()

    def _fail(self, uids: Iterable[str], error: OrbitError) -> None:
        for uid in uids:
            future = self._pending.pop(uid, None)
            if future is not None:
                fail(future, error)
        self._changed.set()

    async def _find(self, uids: list[str]) -> list[dict[str, Any]]:
        try:
            return await self.client.find(uids)
        except UnknownTask:
            return [{"uid": uid, "state": "UNKNOWN"} for uid in uids]

    async def reload(self, uids: list[str]) -> None:
        """Settle expected futures whose results are there already, or are no more."""
        for start in range(0, len(uids), BATCH_TASKS):
            for result in await self._find(uids[start : start + BATCH_TASKS]):
                if result["state"] not in ("PENDING", "RUNNING"):
                    future = self._pending.pop(result["uid"], None)
                    if future is not None:
                        settle(future, result)
        self._changed.set()
