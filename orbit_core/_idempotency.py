"""Answer a repeated request with the first one's reply, for 24 hours, across restarts."""

import base64
import hashlib
import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from ._store import Space
from .errors import BadRequest, IdempotencyMismatch, RequestInFlight
from .web import principal_of, read_body

HEADER = "Idempotency-Key"
KEPT = 24 * 3600.0
"""Seconds for which a reply is kept."""

SWEEP_INTERVAL = 3600.0
"""Seconds between looks for old replies, which read all of them."""

KEY_LIMIT = 255
"""Characters that a key may have."""

Handler = Callable[[Request], Awaitable[Response]]


class Idempotency:
    """Remember the replies of one plugin instance's submitting routes, by owner, route and key.

    A reply is written after the handler returned. A handler that is interrupted by the death of
    its process is therefore called again for the same key: it must recognise its own work.
    """

    def __init__(self, documents: Space) -> None:
        """Take the space in which the replies are kept."""
        self._documents = documents
        self._running: set[str] = set()
        self._clock = time.time
        self._next_sweep = 0.0

    async def answer(self, request: Request, handler: Handler) -> Response:
        """Replay the reply to this key, or have ``handler`` make it; a refusal is not kept.

        Raises RequestInFlight (409), IdempotencyMismatch (422), and BadRequest for a key over 255
        characters.
        """
        key = request.headers.get(HEADER)
        if key is None:
            return await handler(request)
        if not 0 < len(key) <= KEY_LIMIT:
            raise BadRequest(f"{HEADER} must have 1 to {KEY_LIMIT} characters, not {len(key)}")
        content = request.scope["query_string"] + b"\n" + await read_body(request)
        digest = hashlib.sha256(content).hexdigest()
        slot = "\n".join((principal_of(request).owner_key, request.scope["path"], key))
        if slot in self._running:
            raise RequestInFlight(
                f"a request with {HEADER} {key} is still running", retry_after=1.0
            )
        self._running.add(slot)
        try:
            return await self._replay(slot, digest) or await self._make(
                slot, digest, request, handler
            )
        finally:
            self._running.discard(slot)

    async def sweep(self) -> None:
        """Forget replies older than 24 hours; looks once in an hour, however often it is called."""
        now = self._clock()
        if now < self._next_sweep:
            return
        self._next_sweep = now + SWEEP_INTERVAL
        replies = await self._documents.items()
        old = [slot for slot, kept in replies.items() if kept["time"] < now - KEPT]
        if old:
            await self._documents.delete(*old)

    async def _replay(self, slot: str, digest: str) -> Response | None:
        kept = await self._documents.get(slot)
        if kept is None or kept["time"] < self._clock() - KEPT:
            return None
        if kept["digest"] != digest:
            raise IdempotencyMismatch(
                f"this {HEADER} was used with another body or query: use a new key"
            )
        return Response(
            base64.b64decode(kept["body"]),
            status_code=kept["status"],
            media_type="application/json",
            headers={"Idempotency-Replayed": "true"},
        )

    async def _make(self, slot: str, digest: str, request: Request, handler: Handler) -> Response:
        response = await handler(request)
        if response.status_code < 400:
            reply = {
                "digest": digest,
                "status": response.status_code,
                "body": base64.b64encode(bytes(response.body)).decode(),
                "time": self._clock(),
            }
            await self._documents.put(slot, reply)
        return response
