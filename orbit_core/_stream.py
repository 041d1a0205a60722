"""Carry one call over a link: a request and its body one way, a response and its body back."""

import asyncio
import time
from collections import deque
from typing import Protocol

import anyio

from ._frames import (
    CHUNK,
    Kind,
    ProtocolError,
    RequestHead,
    ResponseHead,
    pack_count,
    pack_request,
    pack_response,
    pack_value,
)
from .errors import OrbitError

WINDOW = 1024 * 1024
"""Bytes of body that a sender may be ahead of the reader, per stream and direction."""


SMALL = 16 * 1024
"""Bytes of body up to which a response is sent even if much waits already."""


class FrameSink(Protocol):
    """Take frames for the peer."""

    def send(self, kind: Kind, stream: int, payload: bytes, *, fin: bool = False) -> None:
        """Queue a frame; never waits."""
        ...

    async def room(self) -> None:
        """Wait until the queue is short enough for another body part."""
        ...

    def forget(self, stream: "Stream") -> None:
        """Drop a stream that is over."""
        ...


class Stream:
    """Hold one side of a call, as its caller or as its server.

    Bodies are read with `read` and written with `write`; both wait for the peer, never longer than
    the stream lives. A stream ends once: when both bodies are through, or with an error.
    """

    __slots__ = (
        "_arrival", "_arrived", "_credit", "_leave", "_received_all", "_sent_all", "_sink",
        "_taken", "_unread", "deadline", "error", "head", "id", "progress", "scope",
    )  # fmt: skip

    def __init__(self, sink: FrameSink, stream_id: int, deadline: float) -> None:
        """Belong to ``sink``; ``deadline`` is the seconds without progress until the head."""
        self._sink = sink
        self.id = stream_id
        self.deadline = deadline
        self.progress = time.monotonic()
        self.head: ResponseHead | None = None
        self.error: OrbitError | None = None
        self.scope: anyio.CancelScope | None = None
        self._arrived: deque[bytes] = deque()
        self._unread = 0
        self._taken = 0
        self._received_all = False
        self._sent_all = False
        self._credit = WINDOW
        self._arrival: asyncio.Future[None] | None = None
        self._leave: asyncio.Future[None] | None = None

    @property
    def is_over(self) -> bool:
        """Tell whether nothing more can come or go."""
        return self.error is not None or (self._received_all and self._sent_all)

    @property
    def has_answered(self) -> bool:
        """Tell whether everything that this side sends has been sent."""
        return self._sent_all

    def open(self, head: RequestHead, body: bytes, *, fin: bool) -> None:
        """Send the request's head and first body part (at most `CHUNK` bytes)."""
        self._credit -= len(body)
        self._sent_all = fin
        self._sink.send(Kind.OPEN, self.id, pack_request(head, body), fin=fin)

    async def respond(self, head: ResponseHead, body: bytes, *, fin: bool) -> None:
        """Send the response's head and body, or its first part. Raises the stream's error."""
        if len(body) > SMALL:
            await self._sink.room()
        self._check()
        self.head = head
        first = body[:CHUNK]
        rest = body[CHUNK:]
        self._credit -= len(first)
        self._sent_all = fin and not rest
        self._sink.send(Kind.RESPONSE, self.id, pack_response(head, first), fin=self._sent_all)
        if rest:
            await self.write(rest, fin=fin)
        self._end_if_over()

    async def response(self) -> ResponseHead:
        """Wait for the response's head. Raises the stream's error."""
        while self.head is None:
            self._check()
            await self._wait()
        return self.head

    async def read(self) -> bytes:
        """Return the next body part, or nothing at the end. Raises the stream's error."""
        while not self._arrived:
            if self._received_all:
                return b""
            self._check()
            await self._wait()
        chunk = self._arrived.popleft()
        self._unread -= len(chunk)
        self._taken += len(chunk)
        if self._taken >= WINDOW // 2 and not self._received_all and self.error is None:
            self._sink.send(Kind.CREDIT, self.id, pack_count(self._taken))
            self._taken = 0
        return chunk

    @property
    def at_end(self) -> bool:
        """Tell whether the next `read` would return nothing, without waiting."""
        return self._received_all and not self._arrived

    async def write(self, body: bytes, *, fin: bool) -> None:
        """Send a body part of any size as the peer takes it. Raises the stream's error."""
        position = 0
        while position < len(body):
            await self._sink.room()
            await self._wait_for_credit()
            part = body[position : position + min(CHUNK, self._credit)]  # the whole is no copy
            position += len(part)
            self._credit -= len(part)
            self.progress = time.monotonic()
            self._sink.send(Kind.DATA, self.id, part, fin=fin and position == len(body))
        if fin and not body:
            self._check()
            self._sink.send(Kind.DATA, self.id, b"", fin=True)
        self._sent_all = fin
        self._end_if_over()

    def cancel(self, error: OrbitError) -> None:
        """End the stream here and tell the peer; nothing happens if it is already over."""
        if not self.is_over:
            self._sink.send(
                Kind.CANCEL, self.id, pack_value({"code": error.code, "detail": error.detail})
            )
        self.fail(error)

    def fail(self, error: OrbitError) -> None:
        """End the stream here without telling the peer."""
        if self.error is None and not self.is_over:
            self.error = error
            _wake(self._arrival)
            _wake(self._leave)
            if self.scope is not None:
                self.scope.cancel()
        self._sink.forget(self)

    def accept_response(self, head: ResponseHead, body: bytes, *, fin: bool) -> None:
        """Take the peer's response head. Raises ProtocolError if there already is one."""
        if self.head is not None:
            raise ProtocolError("a second response to one call")
        self.head = head
        self.accept_data(body, fin=fin)

    def accept_data(self, body: bytes, *, fin: bool) -> None:
        """Take a body part. Raises ProtocolError if it overruns the window or the end."""
        self._unread += len(body)
        if self._received_all or self._unread > WINDOW + CHUNK:
            raise ProtocolError("a body runs over its window or its end")
        self.progress = time.monotonic()
        if body:
            self._arrived.append(body)
        self._received_all = fin
        _wake(self._arrival)
        self._end_if_over()

    def accept_credit(self, count: int) -> None:
        """Take the peer's leave to send ``count`` more bytes."""
        self._credit = min(self._credit + count, WINDOW)
        self.progress = time.monotonic()
        _wake(self._leave)

    def is_overdue(self, now: float) -> bool:
        """Tell whether a caller has waited too long for its response's head."""
        return self.head is None and now - self.progress > self.deadline

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def _end_if_over(self) -> None:
        if self.is_over:
            self._sink.forget(self)

    async def _wait(self) -> None:
        self._arrival = asyncio.get_running_loop().create_future()
        await self._arrival

    async def _wait_for_credit(self) -> None:
        self._check()
        while self._credit <= 0:
            self._leave = asyncio.get_running_loop().create_future()
            await self._leave
            self._check()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
