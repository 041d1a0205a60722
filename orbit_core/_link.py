"""Carry many calls and events over one socket, and over the next one when that breaks.

A link outlives its sockets: messages are numbered, kept until the peer acknowledges them and sent
again on the next socket, so that a cut in the network costs time and nothing else. Frames that wait
while the socket is busy travel together; an idle socket sends at once.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

import anyio
from starlette.types import ASGIApp

from ._change import Change
from ._frames import (
    Frame,
    Kind,
    ProtocolError,
    RequestHead,
    split_message,
    unpack_count,
    unpack_map,
    unpack_request,
    unpack_response,
)
from ._messages import Messages
from ._served import ServedCall, scope_of
from ._stream import Stream
from ._tasks import Starter
from .errors import InternalError, OrbitError, TooManyCalls
from .web import ResponseAborted

logger = logging.getLogger(__name__)

CALL_LIMIT = 1024
"""Calls in flight on one link, each way; one more is refused with 503."""

UNACKNOWLEDGED_LIMIT = 32 * 1024 * 1024
"""Bytes of queued and unacknowledged messages from which calls and events are refused."""

HELD_LIMIT = 64 * 1024 * 1024
"""Bytes of queued and unacknowledged messages at which the link is given up."""

ACK_DELAY = 0.2
"""Seconds after which even a single message is acknowledged, so that its sender can forget it."""

FEW = 2
"""Calls in flight, both ways, up to which the first frame of a turn is not kept for others."""

STALL = 10.0
"""Seconds that a busy socket may move nothing towards the peer before it is cut."""

DEADLINE = 600.0
"""Seconds after which a call fails whose answer has not begun and whose body does not move, unless
its caller said otherwise."""


class SocketClosed(Exception):
    """Report that a link's socket is gone."""


class Socket(Protocol):
    """Move whole messages, without waiting and without a task of its own."""

    @property
    def is_busy(self) -> bool:
        """Tell whether the socket has enough to send: what is written now only waits."""
        ...

    @property
    def unsent(self) -> int:
        """Return how many bytes wait for the peer."""
        ...

    def listen(self, receive: Callable[[bytes], None], resume: Callable[[], None]) -> None:
        """Call ``receive`` with each message, and ``resume`` when the socket is no longer busy."""
        ...

    def write(self, message: bytes) -> None:
        """Send one message. Raises SocketClosed."""
        ...

    async def wait_closed(self) -> None:
        """Wait until the socket is gone."""
        ...

    def abort(self) -> None:
        """Cut the connection at once, without a closing handshake."""
        ...


ControlHandler = Callable[[Kind, memoryview], None]


class Link:
    """Open calls to the peer, serve the peer's with an ASGI application, and pass on the rest.

    ``is_broken`` tells that the peer broke the protocol: the owner drops the link.
    """

    def __init__(
        self, app: ASGIApp, group: Starter, control: ControlHandler, *, first_id: int
    ) -> None:
        """Serve calls with ``app`` in ``group``; ``control`` hears the kinds that are no calls.

        ``first_id`` is 1 on the endpoint and 2 on the bridge, so that ids never meet.
        """
        self._app = app
        self._group = group
        self._control = control
        self._first_id = first_id
        self.streams: dict[int, Stream] = {}
        self.served: dict[int, Stream] = {}
        self._socket: Socket | None = None
        self._loop = asyncio.get_running_loop()
        self._stall: asyncio.TimerHandle | None = None
        self._is_scheduled = False
        self._late: asyncio.TimerHandle | None = None
        self._room = Change()
        self._flushed = Change()
        self._next_id = first_id
        self._messages = Messages()
        self._end: OrbitError | None = None
        self.is_broken = False
        self._new_scope = type(anyio.CancelScope())  # which anyio looks up for each one

    @property
    def received(self) -> int:
        """Return how many messages have come: what the peer must know to go on."""
        return self._messages.received

    @property
    def is_attached(self) -> bool:
        """Tell whether a socket carries the link at present."""
        return self._socket is not None

    async def run(self, socket: Socket, peer_received: int) -> None:
        """Carry the link on ``socket`` until it closes, sending again what the peer lacks.

        A link that is still on another socket leaves that first.
        """
        self.cut()
        try:
            self._messages.go_on(peer_received)
        except ProtocolError as error:
            self._break(socket, error)
            return
        self._room.tell()
        self._socket = socket
        socket.listen(partial(self._receive, socket), partial(self._resume, socket))
        self._schedule()
        try:
            await socket.wait_closed()
        finally:
            if self._socket is socket:
                self._detach()

    def cut(self) -> None:
        """Leave the present socket, if any; the link stays."""
        if self._socket is not None:
            self._socket.abort()
            self._detach()

    def reset(self, error: OrbitError) -> None:
        """Begin a new link: every call in flight ends with ``error``, nothing is sent again."""
        self._begin_anew(error, set())

    def end(self, error: OrbitError) -> None:
        """Begin no call any more: those in flight, and those to come, end with ``error``."""
        self._end = error
        self.reset(error)

    def renew(self, error: OrbitError, hello: bytes) -> None:
        """Begin a new link with a hello; what the old one never sent of calls and events follows.

        Calls that were sent end with ``error``: nobody knows what became of them.
        """
        waiting = self._messages.waiting()
        unsent = {stream for kind, stream, _, _ in waiting if kind == Kind.OPEN}
        unsent &= self.streams.keys()
        self._begin_anew(error, unsent)
        self.send(Kind.HELLO, 0, hello)
        for kind, stream, fin, payload in waiting:
            if kind == Kind.EVENT or stream in unsent:
                self.send(kind, stream, payload, fin=fin)

    def _begin_anew(self, error: OrbitError, spared: set[int]) -> None:
        for stream in [*self.streams.values(), *self.served.values()]:
            if stream.id not in spared:
                stream.fail(error)
        self._messages = Messages()
        self.is_broken = False
        self._room.tell()

    def call(
        self, head: RequestHead, body: bytes, *, fin: bool, deadline: float = DEADLINE
    ) -> Stream:
        """Open a call to the peer. Raises TooManyCalls, and what `end` was given."""
        if self._end is not None:
            raise self._end
        if len(self.streams) >= CALL_LIMIT:
            raise TooManyCalls(
                f"{CALL_LIMIT} calls are in flight already: try again", retry_after=1.0
            )
        if self._messages.held > UNACKNOWLEDGED_LIMIT:
            raise TooManyCalls("too much waits to be sent already: try again", retry_after=1.0)
        stream = Stream(self, self._next_id, deadline)
        self._next_id += 2
        self.streams[stream.id] = stream
        stream.open(head, body, fin=fin)
        return stream

    def send(self, kind: Kind, stream: int, payload: bytes, *, fin: bool = False) -> None:
        """Queue a frame; never waits."""
        self._messages.put(kind, stream, payload, fin=fin)
        if self._messages.held > HELD_LIMIT:
            self._give_up()
        self._schedule()

    def send_event(self, payload: bytes) -> bool:
        """Queue a notification, unless too much waits already."""
        if self._messages.held > UNACKNOWLEDGED_LIMIT:
            return False
        self.send(Kind.EVENT, 0, payload)
        return True

    async def room(self) -> None:
        """Wait until few enough bytes are queued or unacknowledged for another body part."""
        while self._messages.is_full:
            await self._room.wait()

    async def flush(self) -> None:
        """Wait until what is queued has been given to the socket, if there is one."""
        while self._messages.queued and self._socket is not None:
            await self._flushed.wait()

    def forget(self, stream: Stream) -> None:
        """Drop a stream that is over; late frames for it are ignored."""
        table = self.streams if self._is_ours(stream.id) else self.served
        if table.get(stream.id) is stream:
            del table[stream.id]

    def expire(self, error: Callable[[float], OrbitError]) -> None:
        """Fail the calls that are overdue."""
        now = time.monotonic()
        for stream in [stream for stream in self.streams.values() if stream.is_overdue(now)]:
            stream.cancel(error(stream.deadline))

    def _give_up(self) -> None:
        """Let go of a link whose peer acknowledges nothing, and of what is held for it."""
        logger.warning("giving up a link: more than %d bytes wait for its peer", HELD_LIMIT)
        self.is_broken = True
        self._messages.forget()
        self._room.tell()
        if self._socket is not None:
            self._socket.abort()

    def _is_ours(self, stream: int) -> bool:
        return stream % 2 == self._first_id % 2

    def _detach(self) -> None:
        self._socket = None
        self._end_stall()
        self._flushed.tell()

    def _schedule(self) -> None:
        """Send in the next turn of the loop: what comes until then travels along.

        What comes first goes at once where there is hardly anything that could come along.
        """
        if not self._is_scheduled and self._socket is not None:
            self._is_scheduled = True
            self._loop.call_soon(self._drain)
            if len(self.streams) + len(self.served) <= FEW:
                self._write()

    def _drain(self) -> None:
        self._is_scheduled = False
        if self._messages.has_next:
            self._write()

    def _write(self) -> None:
        """Give the socket what is queued, as far as it takes that."""
        socket = self._socket
        if socket is None:
            return
        try:
            while not socket.is_busy and (message := self._messages.next()) is not None:
                socket.write(message)
        except SocketClosed:
            return
        if not self._messages.queued:
            self._flushed.tell()
        if not self._messages.is_full:
            self._room.tell()
        if socket.is_busy and self._stall is None:
            self._watch(socket)

    def _resume(self, socket: Socket) -> None:
        if self._socket is socket:
            self._end_stall()
            self._drain()

    def _watch(self, socket: Socket) -> None:
        self._stall = self._loop.call_later(STALL, self._cut_stalled, socket, socket.unsent)

    def _cut_stalled(self, socket: Socket, before: int) -> None:
        if socket.unsent < before:
            self._watch(socket)
            return
        logger.warning("the peer of a link took no data for %.0f s: cutting its socket", STALL)
        socket.abort()

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _be_late(self) -> None:
        self._late = None
        if self._messages.be_late():
            self._schedule()

    def _receive(self, socket: Socket, message: bytes) -> None:
        if self._socket is not socket:
            return
        try:
            self._take(message)
        except ProtocolError as error:
            self._break(socket, error)

    def _break(self, socket: Socket, error: ProtocolError) -> None:
        logger.warning("cutting a link whose peer breaks the protocol: %s", error)
        self.is_broken = True
        socket.abort()

    def _take(self, message: bytes) -> None:
        acknowledged, frames = split_message(message)
        if self._messages.acknowledge(acknowledged):
            self._room.tell()
        empty = True
        for frame in frames:
            empty = False
            self._dispatch(frame)
        if not empty:
            if self._messages.note_received(len(message)):
                self._schedule()
            elif self._late is None:
                self._late = self._loop.call_later(ACK_DELAY, self._be_late)

    def _dispatch(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.RESPONSE:
                stream = self.streams.get(frame.stream)
                if stream is not None:
                    head, body = unpack_response(frame.payload)
                    stream.accept_response(head, body, fin=frame.fin)
            case Kind.OPEN:
                self._open(frame)
            case Kind.DATA:
                stream = self._find(frame)
                if stream is not None:
                    stream.accept_data(bytes(frame.payload), fin=frame.fin)
            case Kind.CREDIT:
                stream = self._find(frame)
                if stream is not None:
                    stream.accept_credit(unpack_count(frame.payload))
            case Kind.CANCEL:
                self._cancelled(frame)
            case Kind.EVENT | Kind.HELLO | Kind.WELCOME | Kind.TOPOLOGY | Kind.SHUTDOWN:
                self._control(Kind(frame.kind), frame.payload)

    def _find(self, frame: Frame) -> Stream | None:
        return (self.streams if self._is_ours(frame.stream) else self.served).get(frame.stream)

    def _cancelled(self, frame: Frame) -> None:
        stream = self._find(frame)
        if stream is not None:
            reason = unpack_map(frame.payload)
            code, detail = str(reason.get("code", "")), str(reason.get("detail", ""))
            stream.fail(OrbitError.from_reply(0, code, detail))

    def _open(self, frame: Frame) -> None:
        if self._is_ours(frame.stream) or frame.stream in self.served:
            raise ProtocolError("a call has an id that is not the caller's to give")
        head, body = unpack_request(frame.payload)
        stream = Stream(self, frame.stream, DEADLINE)
        self.served[stream.id] = stream
        if len(self.served) > CALL_LIMIT:
            stream.cancel(TooManyCalls(f"{CALL_LIMIT} calls are being served already: try again"))
            return
        stream.accept_data(body, fin=frame.fin)
        self._group.start_soon(self._serve, stream, head)

    async def _serve(self, stream: Stream, head: RequestHead) -> None:
        """Serve one of the peer's calls; a cancelled call cancels its handler."""
        call = ServedCall(stream)
        try:
            with self._new_scope() as stream.scope:
                if stream.error is None:
                    await self._app(scope_of(head), call.receive, call.send)
        except ResponseAborted as aborted:
            reason = aborted.__cause__
            failed = InternalError("the handler failed after its response began")
            stream.cancel(reason if isinstance(reason, OrbitError) else failed)
        except OrbitError as error:
            stream.cancel(error)
        except Exception:  # whatever a peer asks for must not end the link, which serves others too
            logger.exception("serving a call failed")
            stream.cancel(
                InternalError("the handler failed; the log of its host has the traceback")
            )
        finally:
            if not stream.is_over:
                unread = (
                    "took the answer before its request ended"
                    if stream.has_answered
                    else "gave no whole answer"
                )
                stream.cancel(InternalError(f"the handler {unread}"))
