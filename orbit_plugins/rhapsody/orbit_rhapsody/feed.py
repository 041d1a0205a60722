"""Pass on what becomes of a session's tasks: as a stream of results, and as notifications.

Results are numbered in the order in which they come, so that whoever follows goes on after a gap.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio

from .archive import Archive
from .models import TaskState
from .records import Row
from .values import for_json, pack

KEEP_ALIVE = 15.0
"""Seconds of silence after which a follower is sent something that means nothing."""

MEMORY = 4 * 1024 * 1024
"""Bytes of results that are kept in memory for those who follow closely."""

CHUNK = 256 * 1024
"""Bytes of results that are sent at a time, and one result more."""

NOTIFIED_VALUE = 64 * 1024
"""Bytes of the largest result that a notification carries; it names a larger one only."""

BATCH = 1024
"""Tasks that one notification carries at most, unless the session says otherwise."""

EPOCH_BITS = 32
"""Bits by which the numbers of results jump when an endpoint was restarted."""

TELLING = 0.02
"""Seconds after which followers are told that a task runs, or what is no hurry: most tasks are over
by then, and what is no hurry went with their results."""

NOTES = 256
"""Notes that are kept for followers; who is further behind misses some."""

SHARE = 4
"""How many times as long as it took to send notifications the next ones are collected."""


_NEEDED = ("uid", "backend", "exit_code", "submitted", "started", "finished", "seq")


class Feed:
    """Hold the latest results of one session."""

    def __init__(self, sid: str, archive: Archive, limit: int) -> None:
        """Begin before the first result; what memory does not hold is read from ``archive``.

        Made on the event loop. A result over ``limit`` bytes becomes a failure that says so.
        """
        self._sid = sid
        self._archive = archive
        self.last = 0
        self._limit = limit
        self._bodies: list[bytes] = []
        self._bytes = 0
        self.followers = 0
        self._running: dict[str, int] = {}
        self._turn = 0
        self._notes: deque[bytes] = deque(maxlen=NOTES)
        self._noted = 0
        self._due_turn = self._due_note = 0
        self._news = anyio.Event()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def resume(self, last: int) -> None:
        """Go on after the results of an earlier process, some of which may not be on disk."""
        self.last = ((last >> EPOCH_BITS) + 1) << EPOCH_BITS if last else 0

    def started(self, uid: str) -> None:
        """Note that a task runs."""
        self._turn += 1
        self._running[uid] = self._turn
        self._tell_soon()

    def note(self, fields: dict[str, Any], *, hurry: bool) -> None:
        """Have followers told something else; without ``hurry`` it goes with what comes next."""
        self._noted += 1
        self._notes.append(pack(fields))
        if hurry:
            self._due_note = self._noted
            self._news.set()
        else:
            self._tell_soon()

    def add(self, fields: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Give a result its number, and return it as it is now and as it is sent."""
        self._running.pop(fields["uid"], None)
        self.last += 1
        fields["seq"] = self.last
        body = pack(fields)
        if len(body) > self._limit:
            fields = {key: fields[key] for key in _NEEDED if key in fields}
            fields |= {
                "state": TaskState.FAILED,
                "error": f"its result has {len(body)} bytes, and this endpoint's result_limit is "
                f"{self._limit}",
            }
            body = pack(fields)
        self._bodies.append(body)
        self._bytes += len(body)
        self._news.set()
        return fields, body

    def kept(self, seq: int) -> None:
        """Note that the results up to ``seq`` are on disk, so that memory may let them go."""
        if self._bytes <= MEMORY:
            return
        first = self.last - len(self._bodies) + 1
        surplus = 0
        while self._bytes > MEMORY and first + surplus <= seq:
            self._bytes -= len(self._bodies[surplus])
            surplus += 1
        del self._bodies[:surplus]

    def close(self) -> None:
        """Let followers go."""
        self.followers = -1
        if self._timer is not None:
            self._timer.cancel()
        self._news.set()

    async def follow(self, after: int) -> AsyncIterator[bytes]:
        """Yield the results after ``after``, and then each as it comes: msgpack, one by one.

        Between them come maps ``{"running": [uid]}``, those of `note` and, in silence, nil.
        """
        self.followers += 1
        told, noted = 0, self._noted
        try:
            while self.followers > 0:
                first = self.last - len(self._bodies) + 1
                if after + 1 < first:
                    page = await self._archive.after(self._sid, after)
                    after = max(first - 1, after) if not page else _last(page)
                    yield b"".join(row.body for row in page if row.body) or _NIL
                    continue
                if self._news.is_set():
                    self._news = anyio.Event()
                news = self._news
                after, chunk = self._take(after)
                if self._due_turn > told:
                    told, running = self._take_running(told)
                    chunk += running
                if chunk or self._due_note > noted:
                    noted, notes = self._take_notes(noted)
                    chunk += notes
                if not chunk and await _set_within(KEEP_ALIVE, news):
                    continue
                yield chunk or _NIL
        finally:
            self.followers -= 1

    def _take(self, after: int) -> tuple[int, bytes]:
        first = self.last - len(self._bodies) + 1
        start = stop = max(0, after + 1 - first)
        size = 0
        while stop < len(self._bodies) and size < CHUNK:
            size += len(self._bodies[stop])
            stop += 1
        return max(after, first + stop - 1), b"".join(self._bodies[start:stop])

    def _take_running(self, told: int) -> tuple[int, bytes]:
        uids = [uid for uid, turn in self._running.items() if turn > told]
        return self._turn, pack({"running": uids}) if uids else b""

    def _take_notes(self, noted: int) -> tuple[int, bytes]:
        missed = min(self._noted - noted, len(self._notes))
        return self._noted, b"".join(self._notes[at] for at in range(-missed, 0))

    def _tell_soon(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(TELLING, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._due_turn, self._due_note = self._turn, self._noted
        self._news.set()


async def _set_within(seconds: float, event: anyio.Event) -> bool:
    with anyio.move_on_after(seconds):
        await event.wait()
        return True
    return False


_NIL = pack(None)


def _last(page: list[Row]) -> int:
    return max(row.seq or 0 for row in page)


class Bulletin:
    """Notify of tasks' states: the first at once, those that come meanwhile together.

    While sending takes time more is collected; nobody waits longer than ``window`` seconds.
    """

    def __init__(self, notify: Callable[[str, Any], None], window: float, size: int) -> None:
        """Send at most ``size`` tasks at a time through ``notify``."""
        self._notify = notify
        self._window = window
        self._size = size
        self._news: dict[str, dict[str, Any]] = {}
        self._wake = anyio.Event()

    def add(self, payload: dict[str, Any]) -> None:
        """Have a task's state notified; of two that come close together the later one is."""
        self._news.pop(payload["uid"], None)
        self._news[payload["uid"]] = payload
        self._wake.set()

    async def run(self) -> None:
        """Notify until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            begin = time.monotonic()
            self.flush()
            await anyio.sleep(min(self._window, SHARE * (time.monotonic() - begin)))

    def flush(self) -> None:
        """Notify of what waits."""
        news, self._news = list(self._news.values()), {}
        for start in range(0, len(news), self._size):
            batch = [_payload(fields) for fields in news[start : start + self._size]]
            if len(batch) == 1:
                self._notify("task_status", batch[0])
            else:
                self._notify("task_status_batch", {"tasks": batch})


_TOLD = (
    "uid", "state", "exit_code", "return_value", "_return_value_encoding", "error", "exception",
    "traceback",
)  # fmt: skip


def _payload(fields: dict[str, Any]) -> dict[str, Any]:
    told = {key: fields[key] for key in _TOLD if key in fields}
    value = told.get("return_value")
    if value is None or type(value) in (bool, int):
        return told
    told = for_json(told)
    if len(str(told["return_value"])) > NOTIFIED_VALUE:
        told |= {"return_value": None, "_return_value_encoding": "omitted"}
    return told
