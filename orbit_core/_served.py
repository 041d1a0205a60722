"""Serve a call that came over a link as an ASGI request."""

from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import anyio
from starlette.types import Message, Scope

from ._frames import RequestHead, ResponseHead
from ._stream import Stream
from .models import Principal, Role


class ServedCall:
    """Be the two ASGI channels of a served call."""

    __slots__ = ("_start", "_stream", "_told_end")

    def __init__(self, stream: Stream) -> None:
        """Answer on the call's stream."""
        self._stream = stream
        self._start: Message | None = None
        self._told_end = False

    async def receive(self) -> Message:
        """Return the next part of the request's body."""
        if self._told_end:
            await anyio.sleep_forever()
        body = await self._stream.read()
        self._told_end = self._stream.at_end
        return {"type": "http.request", "body": body, "more_body": not self._told_end}

    async def send(self, message: Message) -> None:
        """Send the head with the first part of the body, then the other parts."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        body, fin = message.get("body", b""), not message.get("more_body", False)
        if self._start is not None:
            head = ResponseHead(self._start["status"], list(self._start.get("headers", ())))
            self._start = None
            await self._stream.respond(head, body, fin=fin)
        elif body or fin:
            await self._stream.write(body, fin=fin)


def scope_of(head: RequestHead) -> Scope:
    """Return the ASGI scope of a request, with the caller that the bridge stamped on it."""
    raw_path, _, query = head.target.partition(b"?")
    path = raw_path.decode("ascii", "replace")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": head.method,
        "scheme": "http",
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": head.headers,
        "client": None,
        "server": None,
    }
    stamp = head.meta.get("principal")
    if stamp is not None:
        scope["orbit.principal"] = _principal(*stamp)
    return scope


@lru_cache(maxsize=1024)
def _principal(owner: str, role: str, endpoint: str | None) -> Principal:
    return Principal(owner, Role(role), endpoint=endpoint)
