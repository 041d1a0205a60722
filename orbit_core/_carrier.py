"""Carry a link's frames over one socket, and over the next one when that breaks.

Messages are numbered, kept until the peer acknowledges them and sent again on the next socket, so
that a cut in the network costs time and nothing else. Frames that wait while the socket is busy
travel together; an idle socket sends at once.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from ._change import Change
from ._frames import Frame, Kind, ProtocolError, split_message
from ._messages import Messages

logger = logging.getLogger(__name__)

HELD_LIMIT = 64 * 1024 * 1024
"""Bytes of queued and unacknowledged messages at which the link is given up."""

ACK_DELAY = 0.2
"""Seconds after which even a single message is acknowledged, so that its sender can forget it."""

STALL = 10.0
"""Seconds that a busy socket may move nothing towards the peer before it is cut."""


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


class Carrier:
    """Send and receive the frames of one link.

    ``is_broken`` tells that the peer broke the protocol, or acknowledges nothing: the owner drops
    the link.
    """

    def __init__(self, hear: Callable[[Frame], None]) -> None:
        """Call ``hear`` with each frame that comes; what it raises as ProtocolError breaks all."""
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._socket: Socket | None = None
        self._messages = Messages()
        self._room = Change()
        self._flushed = Change()
        self._stall: asyncio.TimerHandle | None = None
        self._late: asyncio.TimerHandle | None = None
        self._is_scheduled = False
        self.is_broken = False

    @property
    def received(self) -> int:
        """Return how many messages have come: what the peer must know to go on."""
        return self._messages.received

    @property
    def held(self) -> int:
        """Return the bytes that are queued or unacknowledged."""
        return self._messages.held

    @property
    def is_attached(self) -> bool:
        """Tell whether there is a socket at present."""
        return self._socket is not None

    async def run(self, socket: Socket, peer_received: int) -> None:
        """Use ``socket`` until it closes, sending again what the peer lacks.

        What is still on another socket leaves that first.
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
        """Leave the present socket, if any."""
        if self._socket is not None:
            self._socket.abort()
            self._detach()

    def begin_anew(self) -> None:
        """Forget all messages, and count from the beginning."""
        self._messages = Messages()
        self.is_broken = False
        self._room.tell()

    def waiting(self) -> list[tuple[Kind, int, bool, bytes]]:
        """Return the kind, stream, end mark and payload of each frame that was never sent."""
        return self._messages.waiting()

    def send(
        self, kind: Kind, stream: int, payload: bytes, *, fin: bool, at_once: bool = False
    ) -> None:
        """Queue a frame, which goes in this turn of the loop or, as a rule, the next."""
        self._messages.put(kind, stream, payload, fin=fin)
        if self._messages.held > HELD_LIMIT:
            self._give_up()
        self._schedule(at_once=at_once)

    async def room(self) -> None:
        """Wait until few enough bytes are queued or unacknowledged for another body part."""
        while self._messages.is_full:
            await self._room.wait()

    async def flush(self) -> None:
        """Wait until what is queued has been given to the socket, if there is one."""
        while self._messages.queued and self._socket is not None:
            await self._flushed.wait()

    def _give_up(self) -> None:
        """Let go of a peer that acknowledges nothing, and of what is held for it."""
        logger.warning("giving up a link: more than %d bytes wait for its peer", HELD_LIMIT)
        self.is_broken = True
        self._messages.forget()
        self._room.tell()
        if self._socket is not None:
            self._socket.abort()

    def _detach(self) -> None:
        self._socket = None
        self._end_stall()
        self._flushed.tell()

    def _schedule(self, *, at_once: bool = False) -> None:
        """Send in the next turn of the loop: what comes until then travels along.

        What comes first may go at once, and others in the next turn.
        """
        if not self._is_scheduled and self._socket is not None:
            self._is_scheduled = True
            self._loop.call_soon(self._drain)
            if at_once:
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
            self._hear(frame)
        if not empty:
            if self._messages.note_received(len(message)):
                self._schedule()
            elif self._late is None:
                self._late = self._loop.call_later(ACK_DELAY, self._be_late)

    def _be_late(self) -> None:
        self._late = None
        if self._messages.be_late():
            self._schedule()
