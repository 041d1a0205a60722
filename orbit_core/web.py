"""Read bodies, write replies, and turn every error into the one error document.

The document is ``{"error": true, "status_code": int, "detail": str, "code": str}``.
"""

import json
import logging
import math
import reprlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import attrs
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Router
from starlette.types import Receive, Scope, Send

from ._checked_send import CheckedSend, is_final
from ._codec import for_json, parse_json
from .errors import (
    BadRequest,
    BodyTooLarge,
    InternalError,
    InvalidBody,
    MethodNotAllowed,
    OrbitError,
    Unauthorized,
    UnknownRoute,
)
from .models import JSON, Principal
from .values import as_model

logger = logging.getLogger(__name__)

T = TypeVar("T")
H = TypeVar("H", bound=Callable[..., Any])

JSON_LIMIT = 16 * 1024 * 1024
"""Bytes of JSON that `json_body` reads unless told otherwise."""

_DIGITS = 18
"""Digits of the largest whole number that is read from a header or a query."""


class Reply(JSONResponse):
    """Answer with JSON; attrs objects may stand anywhere in the content."""

    def render(self, content: Any) -> bytes:
        """Encode ``content``, refusing NaN, which JSON does not have.

        A lone surrogate, which UTF-8 does not have, becomes the escape that JSON has for it.
        """
        return json.dumps(
            content, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=for_json
        ).encode(errors="backslashreplace")


TAKES = "orbit_takes"


def takes(kind: type, media_type: str = JSON) -> Callable[[H], H]:
    """Say that a handler's request body is the JSON of ``kind``, for ``/openapi.json``.

    With another ``media_type`` it is something else than JSON, ``bytes`` if it has no fields.
    """

    def mark(handler: H) -> H:
        setattr(handler, TAKES, (kind, media_type))
        return handler

    return mark


def principal_of(request: Request) -> Principal:
    """Return who a request speaks for, as the bridge stamped it."""
    found = request.scope.get("orbit.principal")
    if not isinstance(found, Principal):
        raise Unauthorized("this request carries no identity: go through the bridge")
    return found


async def read_body(request: Request, limit: int = JSON_LIMIT) -> bytes:
    """Return the whole body.

    Raises BodyTooLarge at once where ``Content-Length`` says so, else when ``limit`` is passed.
    """
    cached = request.scope.get("orbit.body")
    if isinstance(cached, bytes):
        return cached
    too_large = BodyTooLarge(f"this route takes at most {limit} bytes: send less, or in parts")
    announced = request.headers.get("content-length", "").lstrip("0")
    if announced.isdecimal() and (len(announced) > _DIGITS or int(announced) > limit):
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    request.scope["orbit.body"] = bytes(body)
    return bytes(body)


async def json_body(request: Request, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """Return the body's JSON object; an empty body is an empty object.

    Raises InvalidBody for anything that is not a JSON object, BodyTooLarge over ``limit``.
    """
    raw = await read_body(request, limit)
    if not raw:
        return {}
    try:
        data = parse_json(raw)
    except ValueError as error:
        raise InvalidBody(f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidBody(f"the body must be a JSON object, not a {type(data).__name__}")
    return data


async def model_body(request: Request, kind: type[T], *, strict: bool = False) -> T:
    """Return the body as a ``kind``, as `orbit_core.values.as_model` does.

    Raises InvalidBody with all faults, BodyTooLarge.
    """
    return as_model(await json_body(request), kind, strict=strict)


def integer_parameter(request: Request, name: str, default: int = 0) -> int:
    """Return the query parameter ``name`` as a whole number of at least 0."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS):
        raise BadRequest(
            f"the parameter {name!r} must be a whole number of at least 0, not {reprlib.repr(text)}"
        )
    return int(text)


def flag_parameter(request: Request, name: str) -> bool:
    """Return the query parameter ``name`` as a claim: absent or ``false``, or ``true``."""
    text = request.query_params.get(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise BadRequest(f"the parameter {name!r} must be true or false, not {reprlib.repr(text)}")
    return text in ("true", "1")


def error_reply(error: OrbitError, headers: dict[str, str] | None = None) -> Reply:
    """Return the error document, with ``Retry-After`` where the error names a time."""
    extra = dict(headers or {})
    if error.retry_after is not None:
        extra["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, Unauthorized):
        extra["WWW-Authenticate"] = "Bearer"
    document = {
        "error": True,
        "status_code": error.status_code,
        "detail": error.detail,
        "code": error.code,
    }
    return Reply(document, status_code=error.status_code, headers=extra)


def _allowed(routes: Iterable[BaseRoute], scope: Scope) -> set[str]:
    """Return every method that the path has: Starlette's ``Allow`` knows the first route only."""
    found: set[str] = set()
    for route in routes:
        match, child = route.matches(scope)
        if match is Match.NONE:
            continue
        below = getattr(route, "routes", ())
        found |= _allowed(below, {**scope, **child}) | set(getattr(route, "methods", None) or ())
    return found


@attrs.define(eq=False)
class Site:
    """Serve routes as an ASGI application in which every failure has the error document.

    It stands in for Starlette's middleware stack, which costs a tenth of a small request.
    ``absent`` says of a path that nothing is served there, and where to look.
    """

    router: Router
    absent: Callable[[str], str]

    @classmethod
    def of(
        cls,
        routes: Iterable[BaseRoute],
        absent: Callable[[str], str] = "nothing is served at {}".format,
    ) -> "Site":
        """Build a site from routes."""
        collected: Sequence[BaseRoute] = list(routes)
        return cls(Router(collected, redirect_slashes=False), absent)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        scope["app"] = self
        answer = CheckedSend(send)
        try:
            await self.router(scope, receive, answer)
        except ClientDisconnect:
            logger.debug("the client of %s went away", scope["path"])
        except Exception as error:  # the boundary: a handler may fail in any way
            reply = self._reply_to(error, scope)
            if answer.started:
                raise ResponseAborted from error
            await reply(scope, receive, send)

    def _reply_to(self, error: Exception, scope: Scope) -> Response:
        match error:
            case OrbitError() if is_final(error.status_code):
                return error_reply(error)
            case HTTPException() if is_final(error.status_code):
                return self._reply_to_router(error, scope)
            case _:
                logger.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
                return error_reply(
                    InternalError("the handler failed; the log of its host has the traceback")
                )

    def _reply_to_router(self, error: HTTPException, scope: Scope) -> Response:
        path, headers = scope["path"], dict(error.headers or {})
        match error.status_code:
            case 404:
                return error_reply(UnknownRoute(self.absent(path)), headers)
            case 405:
                root = scope.get("app_root_path", scope.get("root_path", ""))
                found = _allowed(self.router.routes, {**scope, "root_path": root})
                allow = ", ".join(sorted(found))
                refusal = MethodNotAllowed(f"{path} takes {allow}, not {scope['method']}")
                return error_reply(refusal, {"Allow": allow})
            case status:
                return error_reply(OrbitError.from_reply(status, "", error.detail), headers)


class ResponseAborted(Exception):
    """Tell the server that a handler failed after its response began: cut the connection."""
