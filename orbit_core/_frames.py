"""Pack and unpack what travels on a link: messages of frames.

A WebSocket message is the count of messages received so far (8 bytes, big-endian), then frames.
A frame is kind (1 byte), flags (1), stream (8), length (4), payload. A message without frames only
acknowledges and is itself not counted. Unknown kinds are ignored: a newer peer may use more.

    OPEN      caller → server    request head and the first part of its body
    RESPONSE  server → caller    response head and the first part of its body
    DATA      both               a further part of a body; FIN marks the last part
    CREDIT    both               the reader took this many bytes: as many more may be sent
    CANCEL    both               the stream is over: the caller left, or an error says why
    EVENT     endpoint → bridge  a notification
    HELLO     endpoint → bridge  who joins: role, plugins, version
    WELCOME   bridge → endpoint  it is registered
    TOPOLOGY  bridge → endpoint  who is connected: the whole, then what changed
    SHUTDOWN  bridge → endpoint  leave, for the reason given
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

LINK_VERSION = 1
"""Version of this format; the next one must still understand this one."""

CHUNK = 128 * 1024
"""Largest body part in one frame, in bytes."""

MESSAGE_LIMIT = 128 * 1024
"""Bytes of frames after which a message is sent even if more frames wait; larger ones only cost
page faults: each copy of a message is then a fresh mapping (measured)."""

EVENT_LIMIT = 4 * 1024 * 1024
"""Largest notification, in bytes of JSON."""

SOCKET_LIMIT = MESSAGE_LIMIT + EVENT_LIMIT + 64 * 1024
"""Largest WebSocket message that a peer has to accept, in bytes."""

FIN = 1

_ACK = struct.Struct(">Q")
_HEADER = struct.Struct(">BBQI")
_COUNT = struct.Struct(">I")

Headers = list[tuple[bytes, bytes]]


class Kind(IntEnum):
    """Number the frame kinds of version 1."""

    OPEN = 1
    RESPONSE = 2
    DATA = 3
    CREDIT = 4
    CANCEL = 5
    EVENT = 6
    HELLO = 7
    WELCOME = 8
    TOPOLOGY = 9
    SHUTDOWN = 10


class ProtocolError(Exception):
    """Report bytes that are no message of this protocol; the link's socket is closed."""


class Frame(NamedTuple):
    """Hold one received frame; the payload is a view into its message."""

    kind: int
    fin: bool
    stream: int
    payload: memoryview


class RequestHead(NamedTuple):
    """Hold the head of a call; ``meta`` is the principal that the bridge stamped."""

    method: str
    target: bytes
    headers: Headers
    meta: dict[str, Any]


class ResponseHead(NamedTuple):
    """Hold the head of an answer."""

    status: int
    headers: Headers


def frame_header(kind: Kind, stream: int, length: int, *, fin: bool = False) -> bytes:
    """Return the bytes that stand before a payload of ``length`` bytes."""
    return _HEADER.pack(kind, FIN if fin else 0, stream, length)


def unpack_frame_header(header: bytes) -> tuple[Kind, int, bool]:
    """Return the kind, stream and FIN flag of what `frame_header` made."""
    kind, flags, stream, _ = _HEADER.unpack(header)
    return Kind(kind), stream, bool(flags & FIN)


def message_header(received: int) -> bytes:
    """Return the bytes that stand before a message's frames."""
    return _ACK.pack(received)


def pack_request(head: RequestHead, body: bytes) -> bytes:
    """Return an OPEN payload."""
    return _pack((head.method, head.target, head.headers, head.meta, body))


def unpack_request(payload: memoryview) -> tuple[RequestHead, bytes]:
    """Return an OPEN payload's head and first body part. Raises ProtocolError."""
    method, target, headers, meta, body = _fields(payload, 5)
    _check_headers(headers)
    if (
        type(method) is not str
        or type(target) is not bytes
        or type(meta) is not dict
        or type(body) is not bytes
    ):
        raise ProtocolError("a request head has fields of the wrong type")
    return RequestHead(method, target, headers, meta), body


def pack_response(head: ResponseHead, body: bytes) -> bytes:
    """Return a RESPONSE payload."""
    return _pack((head.status, head.headers, body))


def unpack_response(payload: memoryview) -> tuple[ResponseHead, bytes]:
    """Return a RESPONSE payload's head and first body part. Raises ProtocolError."""
    status, headers, body = _fields(payload, 3)
    _check_headers(headers)
    if type(status) is not int or not 100 <= status <= 599 or type(body) is not bytes:
        raise ProtocolError("a response head has fields of the wrong type")
    return ResponseHead(status, headers), body


def pack_count(count: int) -> bytes:
    """Return a CREDIT payload."""
    return _COUNT.pack(count)


def unpack_count(payload: memoryview) -> int:
    """Return a CREDIT payload's bytes. Raises ProtocolError."""
    if len(payload) != _COUNT.size:
        raise ProtocolError("a credit frame has the wrong size")
    return int(_COUNT.unpack(payload)[0])


def pack_value(value: Any) -> bytes:
    """Return the payload of a frame that carries plain data."""
    return _pack(value)


def pack_joined(pairs: list[bytes]) -> bytes:
    """Return the payload of a map whose packed keys and values are joined already."""
    return bytes(msgpack.Packer().pack_map_header(len(pairs))) + b"".join(pairs)


def unpack_value(payload: memoryview) -> Any:
    """Return a plain payload's data. Raises ProtocolError."""
    try:
        return msgpack.unpackb(payload, use_list=False)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(f"a payload is not msgpack: {error}") from None


def unpack_map(payload: memoryview) -> dict[str, Any]:
    """Return a plain payload's data, which must be a map with text keys. Raises ProtocolError."""
    value = unpack_value(payload)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ProtocolError("a payload is no map")
    return value


def split_message(message: bytes) -> tuple[int, Iterator[Frame]]:
    """Return a message's acknowledgement and its frames; both raise ProtocolError when read."""
    if len(message) < _ACK.size:
        raise ProtocolError("a message is too short")
    return _ACK.unpack_from(message)[0], _frames(memoryview(message))


def _frames(view: memoryview) -> Iterator[Frame]:
    position, end = _ACK.size, len(view)
    while position < end:
        if end - position < _HEADER.size:
            raise ProtocolError("a frame header is cut off")
        kind, flags, stream, length = _HEADER.unpack_from(view, position)
        position += _HEADER.size
        if length > end - position:
            raise ProtocolError("a frame is longer than its message")
        yield Frame(kind, bool(flags & FIN), stream, view[position : position + length])
        position += length


def _pack(value: Any) -> bytes:
    return bytes(msgpack.packb(value))


def _fields(payload: memoryview, count: int) -> tuple[Any, ...]:
    value = unpack_value(payload)
    if type(value) is not tuple or len(value) != count:
        raise ProtocolError(f"a payload does not have {count} fields")
    return value


def _check_headers(headers: object) -> None:
    if type(headers) is not tuple:
        raise ProtocolError("headers are no list")
    for pair in headers:
        if (
            type(pair) is not tuple
            or len(pair) != 2
            or type(pair[0]) is not bytes
            or type(pair[1]) is not bytes
        ):
            raise ProtocolError("a header is no pair of byte strings")
