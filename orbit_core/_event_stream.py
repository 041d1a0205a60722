"""Answer a listener with events for as long as it takes them."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, nullcontext

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ._http import Connection
from ._tasks import open_tasks
from .errors import Unavailable

STALLED = 5.0
"""Seconds that a listener's connection may take nothing before it is cut."""


class EventStream(Response):
    """Send events until the client leaves, or takes nothing for `STALLED` seconds."""

    def __init__(
        self,
        listeners: dict[Connection, tuple[str, str]],
        keys: tuple[str, str],
        chunks: AsyncGenerator[bytes, None],
    ) -> None:
        """Send ``chunks``; meanwhile be one of ``listeners``, which are cut by their ``keys``."""
        super().__init__(
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        del self.headers["content-length"]
        self._listeners = listeners
        self._keys = keys
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        connection: Connection | None = scope.get("orbit.connection")
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        with nullcontext() if connection is None else self._listed(connection):
            async with open_tasks() as group:
                group.start_soon(self._send_all, send, connection)
                while (await receive())["type"] != "http.disconnect":
                    pass

    @contextmanager
    def _listed(self, connection: Connection) -> Iterator[None]:
        """Have the bridge know whom it can cut."""
        self._listeners[connection] = self._keys
        try:
            yield
        finally:
            del self._listeners[connection]

    async def _send_all(self, send: Send, connection: Connection | None) -> None:
        async with aclosing(self._chunks):
            async for chunk in self._chunks:
                with anyio.move_on_after(STALLED) as scope:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                if scope.cancelled_caught:
                    break
        if connection is None:
            raise Unavailable(f"you took no event for {STALLED:g} s: listen anew")
        connection.abort()
