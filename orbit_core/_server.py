"""Serve an ASGI application with uvicorn, hardened against clients that stall.

What uvicorn leaves open and this closes (see docs/explanation/server.md): a peer that
takes no data, a socket that stays after its handler returned, frames compressed to bombs; and in
`_http` a request whose head never ends.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from ._carrier import SocketClosed
from ._frames import SOCKET_LIMIT
from ._handshake import PING_INTERVAL, PING_TIMEOUT, unsent_bytes
from ._http import HttpProtocol
from ._whole_frame import whole_message
from .config import BridgeConfig, check_private
from .errors import ConfigError

logger = logging.getLogger(__name__)

TLS_HANDSHAKE_TIMEOUT = 5.0

SHUTDOWN_TIMEOUT, SHUTDOWN_LOOK = 3.0, 0.005
"""Seconds that requests in flight may take when the server stops, and between looks at them."""

USER_TIMEOUT = 30_000
"""Milliseconds that sent data may stay unacknowledged (TCP_USER_TIMEOUT, RFC 5482)."""


class SocketProtocol(WebSocketsSansIOProtocol):
    """Be a link's socket: hand messages over as they come, once somebody listens.

    The way through ASGI costs every message a queue, a task's turn and two system calls.
    """

    _receive: Callable[[bytes], None] | None = None
    _resume: Callable[[], None] = staticmethod(lambda: None)

    @property
    def is_busy(self) -> bool:
        """Tell whether the transport's buffer is full."""
        return not self.writable.is_set()

    @property
    def unsent(self) -> int:
        """Return how many bytes wait for the endpoint."""
        return unsent_bytes(self.transport)

    def listen(self, receive: Callable[[bytes], None], resume: Callable[[], None]) -> None:
        """Hand over what came already and what comes from now on."""
        self._receive, self._resume = receive, resume
        while not self.queue.empty():
            message = self.queue.get_nowait()
            if message["type"] == "websocket.receive":
                self._hand_over(message.get("bytes"))
            else:
                self.queue.put_nowait(message)
                break
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def write(self, message: bytes) -> None:
        """Send one message. Raises SocketClosed."""
        # The peer may have said goodbye in what is being read now.
        if self.conn.state is not State.OPEN or self.disconnected or self.transport.is_closing():
            raise SocketClosed
        self.conn.send_binary(message)
        for data in self.conn.data_to_send():
            self.transport.write(data)

    async def wait_closed(self) -> None:
        """Wait until the peer is gone; nothing else comes this way once somebody listens."""
        await self.queue.get()

    def abort(self) -> None:
        """Cut the connection."""
        self.transport.abort()

    async def run_asgi(self) -> None:
        """Run the application, and let go then of what would wait for the garbage collector."""
        try:
            await super().run_asgi()
        finally:
            del self.scope["orbit.socket"]  # type: ignore[typeddict-item]
            self._receive, self._resume = None, SocketProtocol._resume

    def resume_writing(self) -> None:
        """Tell the link that the buffer has room again."""
        super().resume_writing()
        self._resume()

    def data_received(self, data: bytes) -> None:
        """Hand the usual message over at once."""
        message = None if self._receive is None else whole_message(self.conn, data)
        if message is None:
            super().data_received(data)
        else:
            self._hand_over(message)

    def handle_connect(self, event: Any) -> None:
        """Put the socket where the application finds it."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["orbit.socket"] = self  # type: ignore[typeddict-unknown-key]

    def send_receive_event_to_app(self) -> None:
        """Hand a message over, or keep it until somebody listens."""
        if self._receive is None:
            super().send_receive_event_to_app()
            return
        message = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        self._hand_over(None if self.curr_msg_data_type == "text" else message)

    def _hand_over(self, message: bytes | None) -> None:
        assert self._receive is not None
        if message is None:  # text, which no endpoint sends
            self.abort()
        else:
            self._receive(message)


class _Server(uvicorn.Server):
    """Leave signals to whoever runs the server, and bound the TLS handshake."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = anyio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        config = self.config

        def protocol() -> asyncio.Protocol:
            return HttpProtocol(
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )

        handshake = TLS_HANDSHAKE_TIMEOUT if config.ssl else None
        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                protocol,
                sock=sock,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=handshake,
            )
            for sock in sockets or []
        ]
        self.started = True
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the requests in flight end; uvicorn would look after them every 0.1 s."""
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        with anyio.move_on_after(SHUTDOWN_TIMEOUT) as patience:
            while state.connections or state.tasks:  # noqa: ASYNC110  # uvicorn tells nobody
                await anyio.sleep(SHUTDOWN_LOOK)
        if patience.cancelled_caught:
            logger.warning("requests that do not end are cut: %d", len(state.tasks))
            for task in state.tasks:
                task.cancel()


@asynccontextmanager
async def serve(app: ASGIApp, config: BridgeConfig) -> AsyncIterator[str]:
    """Serve ``app`` as ``config`` says while the context is open, and yield its URL.

    Raises ConfigError if the address cannot be bound or certificate and key do not fit.
    """
    check_exposure(config)
    listener = _bind(config.host, config.port)
    try:
        server = _Server(_uvicorn_config(app, config))
        server.config.load()
    except (ssl.SSLError, OSError) as error:
        listener.close()
        raise ConfigError(
            f"certificate {config.cert} and key {config.key} cannot be used: {error}"
        ) from None
    async with anyio.create_task_group() as group:
        group.start_soon(_serve_until_cancelled, server, listener)
        await server.ready.wait()
        yield _url(config, listener)
        group.cancel_scope.cancel()


async def _serve_until_cancelled(server: _Server, listener: socket.socket) -> None:
    """Serve; let the requests in flight end before leaving, however that comes."""
    try:
        await server.serve([listener])
    finally:
        with anyio.CancelScope(shield=True):
            await server.shutdown([listener])


def check_exposure(config: BridgeConfig) -> None:
    """Refuse to listen beyond this host without TLS, and a key that others may read."""
    if (config.cert is None) != (config.key is None):
        raise ConfigError("--cert and --key go together: give both or neither")
    if config.key is not None:
        check_private(config.key, "key file")
    if not is_loopback(config.host) and config.cert is None and not config.insecure:
        raise ConfigError(
            f"listening on {config.host} without TLS would show every token to the network: "
            "give --cert and --key, or say --insecure"
        )


def is_loopback(host: str) -> bool:
    """Tell whether a name or address is this host's for itself alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _uvicorn_config(app: ASGIApp, config: BridgeConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=HttpProtocol,
        ws=SocketProtocol,
        ws_max_size=SOCKET_LIMIT,
        ws_ping_interval=PING_INTERVAL,
        ws_ping_timeout=PING_TIMEOUT,
        ws_per_message_deflate=False,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=config.max_connections,
        timeout_keep_alive=30,
        backlog=2048,
        ssl_certfile=_text(config.cert),
        ssl_keyfile=_text(config.key),
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _words(error: OSError) -> str:
    """Return the system's words alone; `socket.create_server` adds the address to them."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {_words(error)}: choose another with --port, "
            "or --host"
        ) from None
    # Accepted sockets inherit both from the listener.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT)
    return listener


def _url(config: BridgeConfig, listener: socket.socket) -> str:
    host = {"0.0.0.0": socket.getfqdn(), "::": socket.getfqdn()}.get(config.host, config.host)
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if config.cert else 'http'}://{host}:{listener.getsockname()[1]}"
