"""Relay HTTP requests to endpoints: the hot path, kept free of middleware, tasks and copies."""

import re
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
from starlette.types import Receive, Scope, Send

from ._frames import CHUNK, Headers, RequestHead
from ._registry import Member, Registry
from ._server import Connection
from ._stream import Stream
from .auth import COOKIE
from .errors import (
    BadRequest,
    BodyTooLarge,
    ConnectionLost,
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

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer "
    b"transfer-encoding upgrade".split()
)
_NOT_FORWARDED = _HOP_BY_HOP | {b"authorization", b"expect", TIMEOUT_HEADER}
# An endpoint answers on the bridge's own origin: it may not set the bridge's cookies there, and a
# page of its making may not run scripts there.
_NOT_RETURNED = _HOP_BY_HOP | {b"set-cookie", b"content-security-policy", b"x-content-type-options"}
_NO_NAME = re.compile(rb'[\x00-\x20\x7f()<>@,;:\[\]={}\\"/?]')
_NO_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_ADDED: Headers = [
    (b"content-security-policy", b"sandbox"),
    (b"x-content-type-options", b"nosniff"),
]


class Proxy:
    """Relay requests to the registered endpoints; ``statuses`` counts the answers."""

    def __init__(self, registry: Registry, *, max_body: int, timeout: float) -> None:
        """Refuse bodies over ``max_body`` bytes (0: no limit); ``timeout`` is the deadline."""
        self._registry = registry
        self._max_body = max_body
        self._timeout = timeout
        self.statuses: Counter[int] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay one request; every failure has the error document."""
        answer = _Answer(scope, send)
        try:
            await self._relay(scope, receive, answer)
        except OrbitError as error:
            if answer.status:
                await answer.abort(error)
            else:
                answer.status = error.status_code
                await error_reply(error)(scope, receive, send)
        self.statuses[answer.status] += 1

    async def _relay(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        principal: Principal = scope["orbit.principal"]
        member = self._member(scope, principal)
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
        if principal.endpoint is not None and member.applicant.owner != principal.owner:
            raise Forbidden(
                f"endpoint {principal.endpoint} may only call endpoints of {principal.owner}"
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


class _Answer:
    """Pass a stream's response on to the client."""

    __slots__ = ("_connection", "_send", "error", "status")

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self._connection: Connection | None = scope.get("orbit.connection")
        self.status = 0
        self.error: OrbitError | None = None

    async def follow(self, stream: Stream) -> None:
        """Pass everything on; a client that leaves ends the call."""
        if self._connection is not None:
            self._connection.on_lost = partial(stream.cancel, _CLIENT_LEFT)
        try:
            head = await stream.response()
            headers = [pair for pair in head.headers if pair[0].lower() not in _NOT_RETURNED]
            start = {
                "type": "http.response.start",
                "status": head.status,
                "headers": headers + _ADDED,
            }
            _check_answer(head.status, headers)
            await self._send(start)
            self.status = head.status
            while True:
                body = await stream.read()
                more = not stream.at_end
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
                if not more:
                    return
        finally:
            if self._connection is not None:
                self._connection.on_lost = None
            stream.cancel(_CLIENT_LEFT)

    async def abort(self, error: OrbitError) -> None:
        """Cut an answer short so that the client can tell: it must not look complete."""
        if self._connection is None:
            raise error
        self._connection.abort()
        await anyio.lowlevel.checkpoint()


_CLIENT_LEFT = ConnectionLost("the client left")


async def _receive(receive: Receive) -> dict[str, Any]:
    """Return the next body part. Raises RequestTimeout, ConnectionLost."""
    with anyio.move_on_after(BODY_TIMEOUT):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _CLIENT_LEFT
        return {"body": message.get("body", b""), "more_body": message.get("more_body", False)}
    raise RequestTimeout(f"the body of this request stood still for {BODY_TIMEOUT:.0f} s")


def _check_answer(status: int, headers: Headers) -> None:
    """Refuse an endpoint's answer that is no HTTP, before anything of it is sent."""
    names, values = (
        b"".join([name for name, _ in headers]),
        b"".join([value for _, value in headers]),
    )
    if _NO_NAME.search(names) or _NO_VALUE.search(values) or not 200 <= status <= 599:
        raise OrbitError.from_reply(502, "", "the endpoint's answer has an invalid head")


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
