"""Send small submits one after the other in one request that goes on.

Each costs a fraction of a request of its own. What becomes of it is told among the results; what is
not told soon is sent again, in a request of its own with the same key, which has it run once.
"""

import logging
from collections import deque
from collections.abc import AsyncIterator

import anyio
import attrs
from anyio.abc import TaskGroup

from orbit_core.errors import OrbitError

from .client import RhapsodyClient
from .values import pack

logger = logging.getLogger(__name__)

LIMIT = 32 * 1024
"""Bytes of the largest submit that goes this way."""

PATIENCE = 1.0
"""Seconds in which the endpoint tells what became of a submit: a proxy may hold it back."""

REST, LONGEST_REST = 5.0, 3600.0
"""Seconds for which nothing goes this way after nothing was told: doubled each time, up to that."""

IDLE = 20.0
"""Seconds without a submit after which the request ends; a bridge waits three times as long."""


class _Request:
    """Be one request that goes on until nothing comes for a while."""

    def __init__(self) -> None:
        self.is_over = False
        self.scope = anyio.CancelScope()
        self._parts: deque[bytes] = deque()
        self._wake = anyio.Event()

    def put(self, part: bytes) -> None:
        self._parts.append(part)
        self._wake.set()

    async def parts(self) -> AsyncIterator[bytes]:
        while not self.is_over:
            while self._parts:
                yield self._parts.popleft()
            self._wake = anyio.Event()
            with anyio.move_on_after(IDLE):
                await self._wake.wait()
            self.is_over = self.is_over or not self._parts


@attrs.define(eq=False)
class _Outcome:
    """Hold what became of a submit that went in a request."""

    request: _Request
    is_told: anyio.Event = attrs.field(factory=anyio.Event)
    is_accepted: bool = False

    def tell(self, *, is_accepted: bool) -> None:
        self.is_accepted = is_accepted
        self.is_told.set()


class Line:
    """Keep such a request open while there is something to send; made on the event loop."""

    def __init__(self, client: RhapsodyClient, group: TaskGroup) -> None:
        """Send to the client's session, in ``group``."""
        self._client = client
        self._group = group
        self._request: _Request | None = None
        self._outcomes: dict[str, _Outcome] = {}
        self._failures = 0
        self._rests_until = 0.0

    async def send(self, key: str, body: bytes) -> bool:
        """Send a submit, and tell whether the endpoint has it; if not, nobody knows what it did."""
        if len(body) > LIMIT or anyio.current_time() < self._rests_until:
            return False
        request = self._open()
        outcome = self._outcomes[key] = _Outcome(request)
        request.put(pack([key, body]))
        try:
            with anyio.move_on_after(PATIENCE):
                await outcome.is_told.wait()
                return outcome.is_accepted
        finally:
            del self._outcomes[key]
        self._give_up(request)
        return False

    def hear(self, key: str, *, is_accepted: bool) -> None:
        """Take what became of a submit."""
        outcome = self._outcomes.get(key)
        if outcome is not None:  # else it is too late, and no sign that this way is a good one
            self._failures = 0
            outcome.tell(is_accepted=is_accepted)

    def _open(self) -> _Request:
        if self._request is None or self._request.is_over:
            self._request = _Request()
            self._group.start_soon(self._run, self._request)
        return self._request

    def _give_up(self, request: _Request) -> None:
        """Leave a request in which nothing moves, and for a while this way."""
        if request.is_over:
            return
        request.is_over = True
        request.scope.cancel()
        rest = min(LONGEST_REST, REST * 2**self._failures)
        self._failures += 1
        self._rests_until = anyio.current_time() + rest
        for outcome in self._outcomes.values():
            if outcome.request is request:
                outcome.tell(is_accepted=False)

    async def _run(self, request: _Request) -> None:
        with request.scope:
            try:
                await self._client.feed(request.parts())
                return
            except OrbitError as error:  # what was sent goes by a request of its own
                logger.debug("the line of session %s broke: %s", self._client.sid, error)
            except Exception:  # a fault of ours, or of the library below, must lose no call
                logger.exception("the line of session %s failed", self._client.sid)
            self._give_up(request)
