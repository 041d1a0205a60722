"""Read bodies, write replies, and turn every error into the one error document.

The document is ``{"error": true, "status_code": int, "detail": str, "code": str}``.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import attrs
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Router
from starlette.types import Message, Receive, Scope, Send

from ._codec import from_wire, to_data
from .errors import (
    BodyTooLarge,
    InternalError,
    InvalidBody,
    MethodNotAllowed,
    OrbitError,
    Unauthorized,
    UnknownRoute,
)
from .models import Principal

logger = logging.getLogger(__name__)

T = TypeVar("T")

JSON_LIMIT = 16 * 1024 * 1024
"""Bytes of JSON that `json_body` reads unless told otherwise."""

RETRY_AFTER_DEFAULT = 1.0


class Reply(JSONResponse):
    """Answer with JSON; attrs objects may stand anywhere in the content."""

    def render(self, content: Any) -> bytes:
        """Encode ``content``, refusing NaN, which JSON does not have."""
        return json.dumps(
            content, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=to_data
        ).encode()


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
    announced = request.headers.get("content-length", "0")
    chunks: list[bytes] = []
    size = int(announced) if announced.isdecimal() else 0
    if size <= limit:
        size = 0
        async for chunk in request.stream():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                break
    if size > limit:
        raise BodyTooLarge(f"this route takes at most {limit} bytes: send less, or in parts")
    body = b"".join(chunks)
    request.scope["orbit.body"] = body
    return body


async def json_body(request: Request, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """Return the body's JSON object; an empty body is an empty object.

    Raises InvalidBody for anything that is not a JSON object, BodyTooLarge over ``limit``.
    """
    raw = await read_body(request, limit)
    if not raw.strip():
        return {}
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidBody(f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidBody(f"the body must be a JSON object, not a {type(data).__name__}")
    return data


async def model_body(request: Request, kind: type[T]) -> T:
    """Return the body as a ``kind``; unknown fields are ignored, all faults are reported."""
    return from_wire(await json_body(request), kind)


def integer_parameter(request: Request, name: str, default: int = 0) -> int:
    """Return the query parameter ``name`` as a whole number of at least 0."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal()):
        raise InvalidBody(
            f"the parameter {name!r} must be a whole number of at least 0, not {text!r}"
        )
    return int(text)


def flag_parameter(request: Request, name: str) -> bool:
    """Return the query parameter ``name`` as a claim: absent or ``false``, or ``true``."""
    text = request.query_params.get(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise InvalidBody(f"the parameter {name!r} must be true or false, not {text!r}")
    return text in ("true", "1")


def error_reply(error: OrbitError, headers: dict[str, str] | None = None) -> Reply:
    """Return the error document, with ``Retry-After`` where the error names a time."""
    extra = dict(headers or {})
    if error.retry_after is not None:
        extra["Retry-After"] = str(max(1, round(error.retry_after)))
    if isinstance(error, Unauthorized):
        extra["WWW-Authenticate"] = "Bearer"
    document = {
        "error": True,
        "status_code": error.status_code,
        "detail": error.detail,
        "code": error.code,
    }
    return Reply(document, status_code=error.status_code, headers=extra)


def _from_http_exception(error: HTTPException, scope: Scope) -> tuple[OrbitError, dict[str, str]]:
    headers = dict(error.headers or {})
    match error.status_code:
        case 404:
            return UnknownRoute(f"nothing is served at {scope['path']}"), headers
        case 405:
            allowed = headers.get("Allow", "")
            return MethodNotAllowed(
                f"{scope['path']} takes {allowed}, not {scope['method']}"
            ), headers
        case status:
            return OrbitError.from_reply(status, "", error.detail), headers


@attrs.define(eq=False)
class Site:
    """Serve routes as an ASGI application in which every failure has the error document.

    It stands in for Starlette's middleware stack, which costs a tenth of a small request.
    """

    router: Router

    @classmethod
    def of(cls, routes: Iterable[BaseRoute]) -> "Site":
        """Build a site from routes."""
        collected: Sequence[BaseRoute] = list(routes)
        return cls(Router(collected, redirect_slashes=False))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        scope["app"] = self
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.router(scope, receive, watch)
        except ClientDisconnect:
            logger.debug("the client of %s went away", scope["path"])
        except Exception as error:  # the boundary: a handler may fail in any way
            reply = _reply_to(error, scope)
            if started:
                raise ResponseAborted from error
            await reply(scope, receive, send)


class ResponseAborted(Exception):
    """Tell the server that a handler failed after its response began: cut the connection."""


def _reply_to(error: Exception, scope: Scope) -> Response:
    match error:
        case OrbitError():
            return error_reply(error)
        case HTTPException():
            found, headers = _from_http_exception(error, scope)
            return error_reply(found, headers)
        case _:
            logger.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
            return error_reply(
                InternalError("the handler failed; the log of its host has the traceback")
            )
