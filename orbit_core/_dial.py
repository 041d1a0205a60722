"""Dial out to the bridge, over and over, through whatever proxy the environment names."""

import logging
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import attrs
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from ._frames import LINK_VERSION, SOCKET_LIMIT
from ._link import SocketClosed
from ._register import ENDPOINT, PATH, PROCESS, RECEIVED, RESUME_KEY, VERSION
from ._server import PING_INTERVAL, PING_TIMEOUT
from ._transport import trust
from .config import Access
from .errors import ConfigError, ConnectionLost, OrbitError
from .plugin_client import document_error

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0
"""Bounds in seconds of the random wait between attempts; see docs/explanation/link.md."""

OPEN_TIMEOUT = 15.0


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


class DialedSocket:
    """Be a link's socket on a connection of `websockets`."""

    def __init__(self, connection: ClientConnection) -> None:
        """Move messages over ``connection``."""
        self._connection = connection

    async def send(self, message: bytes) -> None:
        """Send one message. Raises SocketClosed."""
        try:
            await self._connection.send(message)
        except ConnectionClosed:
            raise SocketClosed from None

    async def receive(self) -> bytes:
        """Return the next message. Raises SocketClosed."""
        try:
            message = await self._connection.recv()
        except ConnectionClosed:
            raise SocketClosed from None
        if isinstance(message, str):
            raise SocketClosed
        return message

    def abort(self) -> None:
        """Cut the connection."""
        self._connection.transport.abort()


@asynccontextmanager
async def dial(
    access: Access, credentials: Credentials
) -> AsyncIterator[tuple[DialedSocket, Answer]]:
    """Open one WebSocket to the bridge.

    Raises ConnectionLost if it cannot be reached, else the error with which it refused.
    """
    secure = access.url.startswith("https")
    context: ssl.SSLContext | None = trust(access.cert) if secure else None
    try:
        connection = await connect(
            socket_url(access.url),
            additional_headers=_headers(access, credentials),
            ssl=context,
            compression=None,
            max_size=SOCKET_LIMIT,
            open_timeout=OPEN_TIMEOUT,
            ping_interval=PING_INTERVAL,
            ping_timeout=PING_TIMEOUT,
            close_timeout=1.0,
        )
    except InvalidStatus as error:
        raise refusal(error) from None
    except (OSError, WebSocketException, TimeoutError) as error:
        raise ConnectionLost(
            f"cannot reach {access.url}: {error or type(error).__name__}"
        ) from error
    async with connection:
        yield DialedSocket(connection), _answer(connection)


def socket_url(url: str) -> str:
    """Return the WebSocket address that belongs to a bridge's URL. Raises ConfigError."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise ConfigError(f"{url!r} is no bridge URL: it must begin with http:// or https://")
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + PATH, "", ""))


def pause(failures: int) -> float:
    """Return a random number of seconds to wait after so many failures in a row."""
    return random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures, 10)))


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


def refusal(error: InvalidStatus) -> OrbitError:
    """Return the error that the bridge, or a proxy before it, answered the handshake with."""
    status = error.response.status_code
    return document_error(
        status, bytes(error.response.body or b""), f"the bridge refuses (HTTP {status})"
    )
