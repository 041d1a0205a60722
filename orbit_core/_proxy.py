"""Relay HTTP requests to endpoints: the hot path, kept free of middleware, tasks and copies."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import anyio
from starlette.types import ASGIApp, Receive, Scope, Send

from ._answer import CLIENT_LEFT, HOP_BY_HOP, Answer
from ._cookies import COOKIE
from ._frames import CHUNK, Headers, RequestHead
from ._http import Connection
from ._member import Member
from ._registry import Registry
from ._stream import Stream
from .errors import (
    BadRequest,
    BodyTooLarge,
    Forbidden,
    OrbitError,
    RequestTimeout,
    UnknownEndpoint,
)
from .models import Principal
from .web import error_reply

BODY_TIMEOUT = 60.0
"""Seconds without a byte after which a request's body is given up."""

TIMEOUT_HEADER = b"orbit-timeout"

_NOT_FORWARDED = HOP_BY_HOP | {b"authorization", b"expect", TIMEOUT_HEADER}


class Proxy:
    """Relay requests to the registered endpoints.

    ``statuses`` counts the answers; ``callers`` has the token behind each connection in a call.
    """

    def __init__(self, registry: Registry, *, max_body: int, timeout: float) -> None:
        """Refuse bodies over ``max_body`` bytes (0: no limit); ``timeout`` is the deadline."""
        self._registry = registry
        self._max_body = max_body
        self._timeout = timeout
        self.statuses: Counter[int] = Counter()
        self.callers: dict[Connection, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay one request; every failure has the error document."""
        answer = Answer(scope, send)
        connection: Connection | None = scope.get("orbit.connection")
        if connection is not None:
            self.callers[connection] = scope["orbit.principal"].token_id
        try:
            await self._relay(scope, receive, answer)
        except OrbitError as error:
            if answer.status:
                await answer.abort(error)
            else:
                answer.status = error.status_code
                await error_reply(error)(scope, receive, send)
        finally:
            if connection is not None:
                del self.callers[connection]
        self.statuses[answer.status] += 1

    async def _relay(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        principal: Principal = scope["orbit.principal"]
        member = self._member(scope, principal)
        member.count_in(principal.owner)
        try:
            await self._call(member, scope, receive, answer)
        finally:
            member.count_out(principal.owner)

    async def _call(self, member: Member, scope: Scope, receive: Receive, answer: Answer) -> None:
        principal: Principal = scope["orbit.principal"]
        headers, length, timeout = self._request_headers(scope["headers"])
        head = RequestHead(
            scope["method"],
            _target(scope, member.name),
            headers,
            {"principal": (principal.owner, principal.role.value, principal.endpoint)},
        )
        if length == 0:
            stream = member.link.call(head, b"", fin=True, deadline=timeout)
            await answer.follow(stream)
            return
        message = await _receive(receive)
        body, fin = message["body"], not message["more_body"]
        if fin and len(body) <= CHUNK:
            self._check_size(len(body))
            stream = member.link.call(head, body, fin=True, deadline=timeout)
            await answer.follow(stream)
            return
        stream = member.link.call(head, b"", fin=False, deadline=timeout)
        async with anyio.create_task_group() as group:
            group.start_soon(self._pump, message, receive, stream)
            try:
                await answer.follow(stream)
            except OrbitError as error:
                answer.error = error
            group.cancel_scope.cancel()
        if answer.error is not None:
            raise answer.error

    def _member(self, scope: Scope, principal: Principal) -> Member:
        name = scope["path"].split("/", 2)[1]
        member = self._registry.get(name)
        raw, plain = scope["raw_path"], b"/" + name.encode()
        if raw != plain and not raw.startswith(plain + b"/"):
            raise UnknownEndpoint(f"no endpoint is connected as {scope['raw_path']!r}")
        if not member.serves(principal):
            raise Forbidden(
                f"endpoint {name} takes calls of its owner alone: ask to have it started with "
                "--shared, or use an endpoint of your own"
            )
        return member

    def _request_headers(
        self, headers: Iterable[tuple[bytes, bytes]]
    ) -> tuple[Headers, int, float]:
        """Return the headers to forward, the body's length (-1: unknown) and the deadline."""
        forwarded: Headers = []
        length = 0
        timeout = self._timeout
        for name, value in headers:
            if name == b"content-length":
                length = _length(value)
                self._check_size(length)
            elif name == b"transfer-encoding":
                length = -1
            elif name == TIMEOUT_HEADER:
                timeout = _seconds(value)
            elif name == b"cookie":
                value = _without_our_cookie(value)
                if not value:
                    continue
            if name not in _NOT_FORWARDED:
                forwarded.append((name, value))
        return forwarded, length, timeout

    def _check_size(self, size: int) -> None:
        if 0 < self._max_body < size:
            raise BodyTooLarge(
                f"this bridge takes at most {self._max_body} bytes: send less, or in parts"
            )

    async def _pump(self, message: dict[str, Any], receive: Receive, stream: Stream) -> None:
        """Send the request's body as the endpoint takes it; a failure ends the call."""
        size = 0
        try:
            while True:
                size += len(message["body"])
                self._check_size(size)
                await stream.write(message["body"], fin=not message["more_body"])
                if not message["more_body"]:
                    return
                message = await _receive(receive)
        except OrbitError as error:
            stream.cancel(error)


class HostedCalls:
    """Serve the plugins that the bridge hosts, so that their callers can be cut as others are."""

    def __init__(self, app: ASGIApp, callers: dict[Connection, str]) -> None:
        """Serve with ``app``; note in ``callers`` the token behind each connection meanwhile."""
        self._app = app
        self._callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call; one that comes over a link has no connection, and ends with that."""
        connection: Connection | None = scope.get("orbit.connection")
        if connection is None:
            await self._app(scope, receive, send)
            return
        self._callers[connection] = scope["orbit.principal"].token_id
        try:
            await self._app(scope, receive, send)
        finally:
            del self._callers[connection]


async def _receive(receive: Receive) -> dict[str, Any]:
    """Return the next body part. Raises RequestTimeout, ConnectionLost."""
    with anyio.move_on_after(BODY_TIMEOUT):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CLIENT_LEFT
        return {"body": message.get("body", b""), "more_body": message.get("more_body", False)}
    raise RequestTimeout(f"the body of this request stood still for {BODY_TIMEOUT:.0f} s")


def _target(scope: Scope, name: str) -> bytes:
    raw: bytes = scope["raw_path"][1 + len(name) :] or b"/"
    query: bytes = scope["query_string"]
    return raw + b"?" + query if query else raw


def _length(value: bytes) -> int:
    return int(value) if value.isdigit() else -1


def _seconds(value: bytes) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        raise BadRequest(
            "Orbit-Timeout must be a number of seconds up to 86400, "
            f"not {value.decode('latin-1')!r}"
        )
    return seconds


def _without_our_cookie(value: bytes) -> bytes:
    ours = COOKIE.encode() + b"="
    return b"; ".join(
        part for part in map(bytes.strip, value.split(b";")) if not part.startswith(ours)
    )
