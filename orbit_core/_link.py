"""Carry many calls and events between a bridge and an endpoint.

A link outlives its sockets: its `Carrier` goes from one to the next.
"""

import logging
import time
from collections.abc import Callable

import anyio
from starlette.types import ASGIApp

from ._carrier import Carrier, Socket
from ._frames import (
    Frame,
    Kind,
    ProtocolError,
    RequestHead,
    unpack_count,
    unpack_map,
    unpack_request,
    unpack_response,
)
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

FEW = 2
"""Calls in flight, both ways, up to which the first frame of a turn is not kept for others."""

DEADLINE = 600.0
"""Seconds after which a call fails whose answer has not begun and whose body does not move, unless
its caller said otherwise."""

ControlHandler = Callable[[Kind, memoryview], None]


class Link:
    """Open calls to the peer, serve the peer's with an ASGI application, and pass on the rest."""

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
        self._next_id = first_id
        self.streams: dict[int, Stream] = {}
        self.served: dict[int, Stream] = {}
        self._carrier = Carrier(self._dispatch)
        self._end: OrbitError | None = None
        self._new_scope = type(anyio.CancelScope())  # which anyio looks up for each one

    @property
    def received(self) -> int:
        """Return how many messages have come: what the peer must know to go on."""
        return self._carrier.received

    @property
    def is_attached(self) -> bool:
        """Tell whether a socket carries the link at present."""
        return self._carrier.is_attached

    @property
    def is_broken(self) -> bool:
        """Tell whether the peer broke the protocol: the owner drops the link."""
        return self._carrier.is_broken

    async def run(self, socket: Socket, peer_received: int) -> None:
        """Carry the link on ``socket`` until it closes, sending again what the peer lacks.

        A link that is still on another socket leaves that first.
        """
        await self._carrier.run(socket, peer_received)

    def cut(self) -> None:
        """Leave the present socket, if any; the link stays."""
        self._carrier.cut()

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
        waiting = self._carrier.waiting()
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
        self._carrier.begin_anew()

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
        if self._carrier.held > UNACKNOWLEDGED_LIMIT:
            raise TooManyCalls("too much waits to be sent already: try again", retry_after=1.0)
        stream = Stream(self, self._next_id, deadline)
        self._next_id += 2
        self.streams[stream.id] = stream
        stream.open(head, body, fin=fin)
        return stream

    def send(self, kind: Kind, stream: int, payload: bytes, *, fin: bool = False) -> None:
        """Queue a frame; never waits."""
        is_quiet = len(self.streams) + len(self.served) <= FEW
        self._carrier.send(kind, stream, payload, fin=fin, at_once=is_quiet)

    def send_event(self, payload: bytes) -> bool:
        """Queue a notification, unless too much waits already."""
        if self._carrier.held > UNACKNOWLEDGED_LIMIT:
            return False
        self.send(Kind.EVENT, 0, payload)
        return True

    async def room(self) -> None:
        """Wait until few enough bytes are queued or unacknowledged for another body part."""
        await self._carrier.room()

    async def flush(self) -> None:
        """Wait until what is queued has been given to the socket, if there is one."""
        await self._carrier.flush()

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

    def _is_ours(self, stream: int) -> bool:
        return stream % 2 == self._first_id % 2

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
