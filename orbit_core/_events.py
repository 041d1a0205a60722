"""Keep the latest notifications in one ring and let every listener read it at its own pace.

Listeners share the ring's encoded events and hold nothing but a position, so that a slow one costs
nobody anything: it is cut when its connection stalls, and told of a gap when the ring has moved on.
"""

import json
import re
import secrets
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import anyio
import attrs

from ._change import Change
from ._wire_events import Received, encode_data
from .models import Notification, Principal

KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment is sent."""

BATCH = 512
"""Events that one write to a listener carries at most."""

_NUMBER = re.compile(r"[0-9]{1,18}")

KEEP_ALIVE_COMMENT = b": keep-alive\n\n"


@attrs.frozen(eq=False)
class _Kept:
    """Hold an event's bytes and what filters ask; its parsed data may be much larger.

    ``host`` is the owner of the endpoint that it comes from, None if that takes everybody's calls.
    """

    endpoint: str
    plugin: str
    topic: str
    owner: str | None
    host: str | None
    encoded: bytes
    time: float


@attrs.frozen
class Filter:
    """Say what a listener wants to hear; None means everything."""

    principal: Principal
    endpoint: str | None = None
    plugin: str | None = None
    topic: str | None = None

    def passes(self, event: _Kept) -> bool:
        """Tell whether the listener may and wants to hear this."""
        return (
            (self.endpoint is None or self.endpoint == event.endpoint)
            and (self.plugin is None or self.plugin == event.plugin)
            and (self.topic is None or self.topic == event.topic)
            and self.principal.may_use(event.owner)
            and (event.host is None or self.principal.may_call(event.host))
        )


class EventRing:
    """Hold the encoded events of the last minutes, bounded by bytes and age."""

    def __init__(
        self, max_bytes: int, max_seconds: float, describe_topology: Callable[[], object]
    ) -> None:
        """Bound the ring, and take what makes the topology's document.

        The epoch in its ids tells this process's events from an earlier one's.
        """
        self._describe_topology = describe_topology
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._epoch = secrets.token_hex(4).encode()
        self._kept: dict[int, _Kept] = {}
        self._bytes = 0
        self._oldest = 1
        self._end = 0
        self.listeners = 0
        self._changed = Change()
        self._topology = b""
        self._topology_version = 0

    @property
    def end(self) -> int:
        """Return how many events there have been."""
        return self._end

    def append(self, notification: Notification) -> None:
        """Add a notification. Raises TypeError or ValueError if its data is not JSON."""
        document = _document(notification, encode_data(notification)).encode()
        self._end += 1
        encoded = b"%sdata: %s\n\n" % (self._id(self._end), document)
        now = time.monotonic()
        plugin, topic = sys.intern(notification.plugin), sys.intern(notification.topic)
        self._kept[self._end] = _Kept(
            notification.endpoint,
            plugin,
            topic,
            notification.owner,
            notification.host_owner if isinstance(notification, Received) else None,
            encoded,
            now,
        )
        self._bytes += len(encoded)
        self._drop(now)
        self._changed.tell()

    def _drop(self, now: float) -> None:
        """Forget the oldest events, by bytes and by age."""
        while self._kept and (
            self._bytes > self._max_bytes or now - self._kept[self._oldest].time > self._max_seconds
        ):
            self._bytes -= len(self._kept.pop(self._oldest).encoded)
            self._oldest += 1

    def _id(self, position: int) -> bytes:
        """Return the line that says how much a listener has heard."""
        return b"id: %s-%d\n" % (self._epoch, position)

    def topology_changed(self) -> None:
        """Have listeners told the topology anew."""
        self._topology_version += 1
        self._topology = b""
        self._changed.tell()

    def _topology_event(self) -> bytes:
        """Return the topology's event without an id."""
        if not self._topology:
            data = json.dumps(
                {"topic": "topology", "data": self._describe_topology()}, separators=(",", ":")
            )
            self._topology = b"data: %s\n\n" % data.encode()
        return self._topology

    def _topology_after(self, position: int) -> bytes:
        """Return the topology's event for a listener that has heard all up to ``position``."""
        return self._id(position) + self._topology_event()

    async def listen(
        self, wanted: Filter, last_event_id: str | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield what a listener is to be sent: the topology first, then events as they come.

        With a ``last_event_id``, what was missed comes before what is new, after a ``gap`` event
        if the ring no longer reaches back. Ends never; a silent time brings comments.
        """
        self.listeners += 1
        try:
            async for chunk in self._follow(wanted, last_event_id):
                yield chunk
        finally:
            self.listeners -= 1

    async def _follow(self, wanted: Filter, last_event_id: str | None) -> AsyncIterator[bytes]:
        position, missed = self._resume(last_event_id)
        version = self._topology_version
        yield self._topology_event() + missed if missed else self._topology_after(position)
        while True:
            position, chunk = self._take(position, wanted)
            if version != self._topology_version:
                version = self._topology_version
                chunk += self._topology_after(position)
            if chunk:
                yield chunk
            elif position == self._end and (comment := await self._silence()):
                yield comment

    async def _silence(self) -> bytes:
        """Wait for a change and return nothing, or a comment after `KEEP_ALIVE` seconds."""
        with anyio.move_on_after(KEEP_ALIVE):
            await self._changed.wait()
            return b""
        return KEEP_ALIVE_COMMENT

    def _resume(self, last_event_id: str | None) -> tuple[int, bytes]:
        if last_event_id is None:
            return self._end, b""
        epoch, _, number = last_event_id.rpartition("-")
        if epoch.encode() != self._epoch or not _NUMBER.fullmatch(number):
            return self._end, self._gap(None, self._end)
        return min(int(number), self._end), b""

    def _take(self, position: int, wanted: Filter) -> tuple[int, bytes]:
        """Return the next position and the encoded events up to it."""
        start = self._oldest - 1
        gap = b""
        if position < start:
            gap = self._gap(start - position, start)
            position = start
        end = min(position + BATCH, self._end)
        batch = (self._kept[number] for number in range(position + 1, end + 1))
        chosen = [kept.encoded for kept in batch if wanted.passes(kept)]
        return end, gap + b"".join(chosen)

    def _gap(self, lost: int | None, resumes_after: int) -> bytes:
        data = json.dumps({"topic": "gap", "data": {"lost": lost, "resumes_after": resumes_after}})
        return b"event: gap\n%sdata: %s\n\n" % (self._id(resumes_after), data.encode())


def _document(notification: Notification, encoded_data: str) -> str:
    """Return the documented frame, with the data spliced in as it was encoded."""
    head = json.dumps(
        {
            "endpoint": notification.endpoint,
            "plugin": notification.plugin,
            "topic": notification.topic,
            "session": notification.session,
            "seq": notification.seq,
            "time": notification.time,
        },
        separators=(",", ":"),
    )
    return f'{{"topic":"notification","data":{head[:-1]},"data":{encoded_data}}}}}'
