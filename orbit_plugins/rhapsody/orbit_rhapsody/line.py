"""Send small submits one after the other in one request that goes on.

Each costs a fraction of a request of its own. What becomes of it is told among the results; what is
not told soon is sent again, in a request of its own with the same key, which has it run once.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable

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


@attrs.frozen(eq=False)
class _Submit:
    """Hold what to call with the news of a submit, and when there should have been some."""

    request: _Request
    due: float
    on_accept: Callable[[], None]
    on_doubt: Callable[[], object]


class Line:
    """Keep such a request open while there is something to send; made on the event loop."""

    def __init__(self, client: RhapsodyClient, group: TaskGroup) -> None:
        """Send to the client's session, in ``group``."""
        self._client = client
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._request: _Request | None = None
        self._waiting: dict[str, _Submit] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0
        self._rests_until = 0.0

    def send(
        self,
        key: str,
        body: bytes,
        on_accept: Callable[[], None],
        on_doubt: Callable[[], object],
    ) -> None:
        """Send a submit.

        ``on_accept`` is called once the endpoint has it. ``on_doubt`` is where it declined, where
        nobody knows, and at once where a submit does not go this way.
        """
        now = self._loop.time()
        if len(body) > LIMIT or now < self._rests_until:
            on_doubt()
            return
        request = self._open()
        self._waiting[key] = _Submit(request, now + PATIENCE, on_accept, on_doubt)
        request.put(pack([key, body]))
        self._watch()

    def hear(self, key: str, *, is_accepted: bool) -> None:
        """Take what became of a submit."""
        submit = self._waiting.pop(key, None)
        if submit is not None:  # else it is too late, and no sign that this way is a good one
            self._failures = 0
            (submit.on_accept if is_accepted else submit.on_doubt)()

    def _open(self) -> _Request:
        if self._request is None or self._request.is_over:
            self._request = _Request()
            self._group.start_soon(self._run, self._request)
        return self._request

    def _watch(self) -> None:
        if self._timer is None and self._waiting:
            first = next(iter(self._waiting.values()))
            self._timer = self._loop.call_at(first.due, self._look)

    def _look(self) -> None:
        """Give up what has waited for too long."""
        self._timer = None
        if self._group.cancel_scope.cancel_called:
            return
        now = self._loop.time()
        for request in {submit.request for submit in self._waiting.values() if submit.due <= now}:
            self._give_up(request)
        self._watch()

    def _give_up(self, request: _Request) -> None:
        """Leave a request in which nothing moves, and for a while this way."""
        if not request.is_over:
            request.is_over = True
            request.scope.cancel()
            rest = min(LONGEST_REST, REST * 2**self._failures)
            self._failures += 1
            self._rests_until = self._loop.time() + rest
        for key in [key for key, one in self._waiting.items() if one.request is request]:
            self._waiting.pop(key).on_doubt()

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
