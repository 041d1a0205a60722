"""Take the usual frame from what a WebSocket received, past the parser of `websockets`.

That parser reads any frame, in any pieces, in some twenty calls: as much as the rest of what a
small request costs on its way over a link. What nearly always comes is one frame, whole.
"""

from typing import Any

from websockets import frames
from websockets.protocol import SERVER, Protocol, State

_LAST_BINARY = 0x82
_MASKED = 0x80
_TWO_MORE, _EIGHT_MORE = 126, 127
"""A frame's first byte, and what its second says (RFC 6455, section 5.2)."""

_BETWEEN_FRAMES = "at_eof"
"""Where the parser is when no frame has begun: it asks whether there will be another one."""

_unmask = getattr(frames, "apply_mask", None)  # the compiled one, if there is


def whole_message(protocol: Protocol, data: bytes) -> bytes | None:
    """Return the message if ``data`` is a binary one in one frame, and nothing else.

    None says that ``data`` is for the parser, as all is while that has begun a frame or a message.
    """
    if len(data) < 2 or data[0] != _LAST_BINARY or not _expects_message(protocol):
        return None
    is_masked = protocol.side is SERVER
    start, length = 2, data[1] - _MASKED if is_masked else data[1]
    if length == _TWO_MORE:
        start, length = 4, int.from_bytes(data[2:4])
    elif not 0 <= length < _EIGHT_MORE:
        return None
    if not is_masked:
        return data[start:] if len(data) == start + length else None
    end_of_mask = start + 4
    if len(data) != end_of_mask + length or _unmask is None:
        return None
    return bytes(_unmask(data[end_of_mask:], data[start:end_of_mask]))


def _expects_message(protocol: Protocol) -> bool:
    """Tell whether the next byte is the first of a message; False also if that cannot be told.

    The parser, a generator, does not tell, but where it waits does. All this is its own affair, and
    may be called otherwise in another version, whose parser then reads everything.
    """
    if protocol.state is not State.OPEN or getattr(protocol, "current_size", True) is not None:
        return False
    place: Any = getattr(protocol, "parser", None)
    while (inner := getattr(place, "gi_yieldfrom", None)) is not None:
        place = inner
    return getattr(getattr(place, "gi_code", None), "co_name", "") == _BETWEEN_FRAMES
