"""Number a link's messages, keep them until the peer acknowledges them, and owe it the same."""

from collections import deque

from ._frames import (
    MESSAGE_LIMIT,
    Kind,
    ProtocolError,
    frame_header,
    message_header,
    unpack_frame_header,
)

QUEUE_HIGH = 2 * 1024 * 1024
"""Bytes of queued frames from which body parts wait."""

UNACKNOWLEDGED_HIGH = 16 * 1024 * 1024
"""Bytes of unacknowledged messages from which body parts wait."""

ACK_MESSAGES = 32
ACK_BYTES = 256 * 1024
"""Messages or bytes received after which an acknowledgement is sent even if nothing else is."""

FRAME_COST = 16
"""Bytes that a queued frame counts for besides its payload."""


class Messages:
    """Hold the messages of one link, each way, over all of its sockets."""

    def __init__(self) -> None:
        """Begin with nothing sent and nothing received."""
        self.forget()
        self._acknowledged = 0
        self.received = 0
        self._received_bytes = 0
        self._told = 0
        self._is_late = False

    def forget(self) -> None:
        """Let go of everything that was to be sent."""
        self._queue: deque[bytes] = deque()
        self.queued = 0
        self._unacknowledged: deque[bytes] = deque()
        self._unacknowledged_bytes = 0
        self._resend = 0

    @property
    def held(self) -> int:
        """Return the bytes that are queued or unacknowledged."""
        return self.queued + self._unacknowledged_bytes

    @property
    def is_full(self) -> bool:
        """Tell whether body parts are to wait."""
        return self.queued > QUEUE_HIGH or self._unacknowledged_bytes > UNACKNOWLEDGED_HIGH

    @property
    def has_next(self) -> bool:
        """Tell whether there is something to send."""
        return bool(self._queue or self._resend or self._is_late or self._owes_acknowledgement())

    def put(self, kind: Kind, stream: int, payload: bytes, *, fin: bool) -> None:
        """Queue a frame."""
        self._queue.append(frame_header(kind, stream, len(payload), fin=fin))
        self._queue.append(payload)
        self.queued += len(payload) + FRAME_COST

    def waiting(self) -> list[tuple[Kind, int, bool, bytes]]:
        """Return the kind, stream, end mark and payload of each frame that was never sent."""
        parts = [*self._queue]
        return [
            (*unpack_frame_header(header), payload)
            for header, payload in zip(parts[::2], parts[1::2], strict=True)
        ]

    def go_on(self, peer_received: int) -> None:
        """Send what the peer lacks again, on a new socket. Raises ProtocolError."""
        self.acknowledge(peer_received)
        self._resend = len(self._unacknowledged)
        self._note_told()

    def next(self) -> bytes | None:
        """Return the next message to send: frames that wait travel together."""
        if self._resend:
            self._resend -= 1
            return self._unacknowledged[-1 - self._resend]
        if not self._queue:
            return self._acknowledgement()
        parts = [message_header(self.received)]
        size = 0
        while self._queue and size < MESSAGE_LIMIT:
            parts.append(self._queue.popleft())
            size += len(parts[-1])
            parts.append(self._queue.popleft())
            size += len(parts[-1])
            self.queued -= len(parts[-1]) + FRAME_COST
        message = b"".join(parts)
        self._note_told()
        self._unacknowledged.append(message)
        self._unacknowledged_bytes += len(message)
        return message

    def acknowledge(self, count: int) -> bool:
        """Forget what the peer has, and tell whether there is something. Raises ProtocolError."""
        if count > self._acknowledged + len(self._unacknowledged):
            raise ProtocolError("the peer acknowledges what was never sent")
        news = count > self._acknowledged
        while self._acknowledged < count:
            self._acknowledged += 1
            self._unacknowledged_bytes -= len(self._unacknowledged.popleft())
        self._resend = min(self._resend, len(self._unacknowledged))
        return news

    def note_received(self, size: int) -> bool:
        """Count a message that came, and tell whether the peer is to be told so at once."""
        self.received += 1
        self._received_bytes += size
        return self._owes_acknowledgement()

    def be_late(self) -> bool:
        """Have the next message tell what came, if the peer does not know it yet."""
        self._is_late = self.received > self._told
        return self._is_late

    def _acknowledgement(self) -> bytes | None:
        if not (self._is_late or self._owes_acknowledgement()):
            return None
        self._note_told()
        return message_header(self.received)

    def _owes_acknowledgement(self) -> bool:
        return self.received - self._told >= ACK_MESSAGES or self._received_bytes >= ACK_BYTES

    def _note_told(self) -> None:
        self._told = self.received
        self._received_bytes = 0
        self._is_late = False
