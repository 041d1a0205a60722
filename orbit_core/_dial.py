"""Dial out to the bridge, over and over, through whatever proxy the environment names."""

import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import anyio.to_thread
import attrs
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidProxy, InvalidStatus, WebSocketException
from websockets.frames import Opcode
from websockets.http11 import Response
from websockets.protocol import State

from ._carrier import SocketClosed
from ._frames import LINK_VERSION, SOCKET_LIMIT
from ._handshake import (
    ENDPOINT,
    PATH,
    PING_INTERVAL,
    PING_TIMEOUT,
    PROCESS,
    RECEIVED,
    RESUME_KEY,
    VERSION,
    unsent_bytes,
)
from ._tls import advice, trust
from ._whole_frame import whole_message
from .config import Access, check_url
from .error_documents import document_error, is_error_document
from .errors import ConnectionLost, NoRoute, OrbitError, UnknownRoute, reason_of
from .ways.models import Route

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0
"""Bounds in seconds of the random wait between attempts; see docs/explanation/link.md."""

LONGEST_ASKED = 60.0
"""Seconds beyond which nobody can ask an endpoint to stay away."""


LOCATION_SHOWN = 200
"""Characters of an address that a redirect names."""


@attrs.frozen
class Credentials:
    """Hold what a handshake says: who joins, and what of an earlier link it remembers."""

    name: str
    process: str
    resume_key: str | None
    received: int


@attrs.frozen
class Answer:
    """Hold what the bridge says: the key to come back with, and its count if the link goes on."""

    resume_key: str
    received: int | None


class _Connect(connect):
    """Dial without following redirects: a bridge sends none, and a portal's lead elsewhere."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Leave the answer to whoever dials."""
        return exc


class DialedSocket(ClientConnection):
    """Be a link's socket: a connection of `websockets` that hands messages over as they come.

    Its own way, a queue and a task that reads it, costs every message another turn of the loop.
    """

    _receive: Callable[[bytes], None] | None = None
    _resume: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, *args: Any, **settings: Any) -> None:
        """Take what `websockets.connect` gives."""
        super().__init__(*args, **settings)
        self._early: list[bytes] = []
        self._parts: list[bytes] = []

    @property
    def is_busy(self) -> bool:
        """Tell whether the transport's buffer is full."""
        return self.paused

    @property
    def unsent(self) -> int:
        """Return how many bytes wait for the bridge."""
        return unsent_bytes(self.transport)

    def listen(self, receive: Callable[[bytes], None], resume: Callable[[], None]) -> None:
        """Hand over what came already and what comes from now on."""
        self._receive, self._resume = receive, resume
        early, self._early = self._early, []
        for message in early:
            receive(message)

    def write(self, message: bytes) -> None:
        """Send one message. Raises SocketClosed."""
        if self.state is not State.OPEN:
            raise SocketClosed
        self.protocol.send_binary(message)
        self.send_data()

    def abort(self) -> None:
        """Cut the connection."""
        self.transport.abort()

    def resume_writing(self) -> None:
        """Tell the link that the buffer has room again."""
        super().resume_writing()
        self._resume()

    def data_received(self, data: bytes) -> None:
        """Hand the usual message over at once."""
        message = None if self._receive is None else whole_message(self.protocol, data)
        if message is None or self._receive is None:
            super().data_received(data)
        else:
            self._receive(message)

    def process_event(self, event: Any) -> None:
        """Put messages together and hand them over; leave the rest to `websockets`."""
        if self.response is not None and event.opcode is Opcode.TEXT:  # which no bridge sends
            self.abort()
            return
        if self.response is None or event.opcode not in (Opcode.BINARY, Opcode.CONT):
            super().process_event(event)
            return
        self._parts.append(event.data)
        if not event.fin:
            return
        message = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        if self._receive is None:
            self._early.append(message)
        else:
            self._receive(message)


_USUAL = Route()


@asynccontextmanager
async def dial(
    access: Access, credentials: Credentials, route: Route = _USUAL
) -> AsyncIterator[tuple[DialedSocket, Answer]]:
    """Open one WebSocket to the bridge, by the way that ``route`` says.

    Raises ConnectionLost if it cannot be reached, NoRoute if something else answers in its place,
    else the error with which it refused.
    """
    secure = access.url.startswith("https")
    context = await anyio.to_thread.run_sync(trust, access.cert) if secure else None
    try:
        connection = await _Connect(
            socket_url(access.url),
            create_connection=DialedSocket,
            additional_headers=_headers(access, credentials),
            ssl=context,
            **await _place(route),
            compression=None,
            max_size=SOCKET_LIMIT,
            open_timeout=route.timeout,
            ping_interval=PING_INTERVAL,
            ping_timeout=PING_TIMEOUT,
            close_timeout=1.0,
        )
    except InvalidStatus as error:
        raise refusal(error, access.url) from None
    except InvalidProxy as error:  # whose text has the proxy's password
        raise NoRoute(f"the address of the proxy cannot be used: {error.msg}") from None
    except (OSError, WebSocketException, TimeoutError) as error:
        reason = reason_of(error)
        raise ConnectionLost(f"cannot reach {access.url}: {reason}{advice(reason)}") from error
    async with connection:
        assert isinstance(connection, DialedSocket)
        yield connection, _answer(connection)


async def _place(route: Route) -> dict[str, Any]:
    """Return what tells `websockets.connect` where to open its socket."""
    found: dict[str, Any] = {"proxy": route.proxy}
    if route.host is not None:
        found |= {"host": route.host, "port": route.port}
    if route.proxy_cert is not None:
        pinned = await anyio.to_thread.run_sync(trust, Path(route.proxy_cert))
        pinned.check_hostname = False  # it is this very certificate, whatever the host is called
        found["proxy_ssl"] = pinned
    return found


def socket_url(url: str) -> str:
    """Return the WebSocket address that belongs to a bridge's URL. Raises ConfigError."""
    check_url(url)
    parts = urlsplit(url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + PATH, "", ""))


def pause(failures: int, asked: float = 0.0) -> float:
    """Return how long to wait after so many failures in a row: as ``asked`` and a random time."""
    most = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures, 10))
    return min(asked, LONGEST_ASKED) + random.uniform(0, most)


def _headers(access: Access, credentials: Credentials) -> dict[str, str]:
    headers = {
        ENDPOINT: credentials.name,
        PROCESS: credentials.process,
        RECEIVED: str(credentials.received),
        VERSION: str(LINK_VERSION),
    }
    if access.token:
        headers["Authorization"] = f"Bearer {access.token}"
    if credentials.resume_key:
        headers[RESUME_KEY] = credentials.resume_key
    return headers


def _answer(connection: ClientConnection) -> Answer:
    assert connection.response is not None
    headers = connection.response.headers
    received = headers.get(RECEIVED)
    return Answer(
        headers.get(RESUME_KEY, ""), int(received) if received and received.isdecimal() else None
    )


def refusal(error: InvalidStatus, url: str) -> OrbitError:
    """Return the error with which the bridge answered the handshake.

    What is no error document comes from a portal, or a proxy whose bridge is away: that is NoRoute,
    because another way, or a later attempt, may lead to the bridge.
    """
    response = error.response
    body, wait = bytes(response.body or b""), _first(response, "Retry-After")
    if is_error_document(body):
        prefix = f"the bridge refuses (HTTP {response.status_code})"
        found = document_error(response.status_code, body, prefix, wait)
        if isinstance(found, UnknownRoute):
            return UnknownRoute(
                f"a bridge answers for {url}, but takes no endpoints at {socket_url(url)} "
                "(HTTP 404): check the path of its URL, a bridge by itself has none"
            )
        return found
    said = f"HTTP {response.status_code} {response.reason_phrase}".rstrip()
    if place := _first(response, "Location"):
        said += f", see {place[:LOCATION_SHOWN]}"
    if response.status_code == UnknownRoute.status:
        said += f" for {socket_url(url)}: check host, port and path of the bridge's URL"
    return NoRoute(
        f"something other than an ORBIT bridge answers for {url}: {said}",
        retry_after=float(wait) if wait.isdecimal() else None,
    )


def _first(response: Response, name: str) -> str:
    """Return a header's first value; it may come more than once from a peer that is no bridge."""
    return next(iter(response.headers.get_all(name)), "")
