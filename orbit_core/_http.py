"""Parse HTTP requests with uvicorn, with a deadline and a limit for their heads."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from typing import ClassVar, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .errors import BadRequest, OrbitError, Unavailable
from .web import error_reply

HEAD_TIMEOUT = 5.0
"""Seconds in which a connection must show a whole request head."""

HEADLESS_LIMIT, HURRIED_TIMEOUT = 64, 1.0
"""Connections per address that may be without a first request at one time, and the seconds in which
one more must show its head: many endpoints behind one address may all come back in one moment."""

HEAD_LIMIT, HEADER_LIMIT = 64 * 1024, 1000
"""Bytes of a request's head, and of its headers the number, that are taken from anybody."""

_NO_HTTP = BadRequest("this is no HTTP request")
_NO_UPGRADE = BadRequest("a request with a body cannot ask for another protocol: leave out Upgrade")
_FULL = Unavailable("this bridge has as many connections as it takes: wait", retry_after=1.0)
_TOO_LARGE = OrbitError.from_reply(
    431,
    BadRequest.code,
    f"the head of this request is over {HEAD_LIMIT} bytes or {HEADER_LIMIT} headers: send less",
)


class Connection:
    """Let an application hear that its client left, and cut a client that takes no data."""

    __slots__ = ("_transport", "on_lost")

    def __init__(self, transport: asyncio.Transport) -> None:
        """Stand for ``transport``; ``on_lost`` is called once when it goes, if set."""
        self._transport = transport
        self.on_lost: Callable[[], None] | None = None

    def abort(self) -> None:
        """Drop the connection and what waits to be sent on it."""
        self._transport.abort()

    def lost(self) -> None:
        """Tell whoever listens."""
        if self.on_lost is not None:
            self.on_lost()


class _Joining:
    """Send an answer's head with the body that follows in the same turn of the loop.

    Together they are one packet and one record of TLS; uvicorn writes them one after the other.
    """

    __slots__ = ("_head", "_is_begun", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._is_begun = False
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._is_begun:
            self._transport.write(self._head + data if self._head else data)
            self._head = b""
        else:
            self._is_begun = True
            self._head = data
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._head and not self._transport.is_closing():
            self._transport.write(self._head)
        self._head = b""

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class HttpProtocol(HttpToolsProtocol):
    """Give every request its connection, and every head a deadline and a limit."""

    headless: ClassVar[Counter[str]] = Counter()
    connection: Connection
    _head_timer: asyncio.TimerHandle | None = None
    _is_headless = False
    _is_in_head = False
    _head_size = 0
    _pending = 0
    _refusal: OrbitError = _NO_HTTP

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline, an early one if too many of the same address wait already."""
        super().connection_made(transport)
        self._most, self.limit_concurrency = self.limit_concurrency or math.inf, None
        self.connection = Connection(transport)
        self._address = self.client[0] if self.client else ""
        self.headless[self._address] += 1
        self._is_headless = True
        is_one_too_many = self.headless[self._address] > HEADLESS_LIMIT
        self._start_timer(HURRIED_TIMEOUT if is_one_too_many else HEAD_TIMEOUT)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application."""
        self._head_arrived()
        super().connection_lost(exc)
        self.connection.lost()

    def handle_websocket_upgrade(self) -> None:
        """Leave the connection to a `SocketProtocol`, and let go of what keeps this in memory."""
        super().handle_websocket_upgrade()
        self.parser = None  # type: ignore[assignment]
        if not hasattr(self.transport.get_protocol(), "scope") and not self.transport.is_closing():
            self.send_400_response("")  # websockets takes shorter heads, and is silent about it

    def data_received(self, data: bytes) -> None:
        """Parse what came, and refuse a line that never ends."""
        self._pending += len(data)
        super().data_received(data)
        if self._head_timer is None and (self._is_in_head or (self._pending and self._is_idle)):
            self._start_timer(HEAD_TIMEOUT)
        if self._pending > HEAD_LIMIT and not self.transport.is_closing():
            self._refusal = _TOO_LARGE
            self.send_400_response("")

    def on_url(self, url: bytes) -> None:
        """Count the target."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, or a trailer."""
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._pending = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed with the error document, and close."""
        reply = error_reply(self._refusal)
        lines = [STATUS_LINE[reply.status_code], b"connection: close\r\n"]
        lines += [b"%s: %s\r\n" % header for header in reply.raw_headers]
        self.transport.write(b"".join([*lines, b"\r\n", reply.body]))
        self.transport.close()

    def on_message_begin(self) -> None:
        """Put the connection where the application finds it."""
        super().on_message_begin()
        self._head_size = 0
        self.scope["orbit.connection"] = self.connection  # type: ignore[typeddict-unknown-key]
        self._is_in_head = True

    def on_headers_complete(self) -> None:
        """End the deadline; answer at once if the server has too much to do."""
        self._pending = 0
        if self.parser.should_upgrade() and self._has_body():  # which the parser would not show
            self._refusal = _NO_UPGRADE
            raise _NO_UPGRADE  # makes the parser call `send_400_response`
        busy = max(len(self.connections), len(self.tasks)) >= self._most
        self.app = error_reply(_FULL) if busy else self.config.loaded_app
        self._head_arrived()
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.transport is self.transport:
            self.cycle.transport = cast("asyncio.Transport", _Joining(self.transport, self.loop))

    @property
    def _is_idle(self) -> bool:
        """Tell whether no request is being read or answered: empty lines may come before one."""
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    def _has_body(self) -> bool:
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    def _count(self, size: int) -> None:
        self._pending = 0
        self._head_size += size
        if self._head_size > HEAD_LIMIT or len(self.headers) > HEADER_LIMIT:
            self._refusal = _TOO_LARGE
            raise _TOO_LARGE  # makes the parser call `send_400_response`

    def _start_timer(self, seconds: float) -> None:
        self._head_timer = self.loop.call_later(seconds, self.transport.abort)

    def _head_arrived(self) -> None:
        self._is_in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._is_headless:
            self._is_headless = False
            self.headless[self._address] -= 1
            if not self.headless[self._address]:
                del self.headless[self._address]
