"""Pack notifications into EVENT frames and unpack them, trusting nothing that an endpoint sends."""

import json
import math

import attrs

from ._codec import encode_json, parse_json
from ._frames import EVENT_LIMIT, ProtocolError, pack_value, unpack_value
from .models import Notification

_NONE = type(None)
_TYPES = ((str,), (str,), (str, _NONE), (str, _NONE), (int,), (float,), (str,))


def pack_event(notification: Notification) -> bytes:
    """Return an EVENT payload; data over `EVENT_LIMIT` bytes is replaced by a note that says so.

    Raises TypeError or ValueError for data that is not JSON.
    """
    data = encode_data(notification)
    return pack_value(
        (
            notification.plugin,
            notification.topic,
            notification.session,
            notification.owner,
            notification.seq,
            notification.time,
            data,
        )
    )


@attrs.frozen
class Received(Notification):
    """Be a notification that came over a link; ``text`` is its data as the JSON that arrived.

    ``host_owner`` is the owner of an endpoint that takes no other owner's calls.
    """

    text: str = ""
    host_owner: str | None = None


def encode_data(notification: Notification) -> str:
    """Return a notification's data as JSON text on one line."""
    if isinstance(notification, Received):
        return notification.text
    text = encode_json(notification.data)
    if len(text) > EVENT_LIMIT:
        return json.dumps({"too_large": True, "bytes": len(text), "limit": EVENT_LIMIT})
    return text


def unpack_event(payload: memoryview, endpoint: str, host_owner: str | None = None) -> Received:
    """Return a notification of ``endpoint``, which the bridge knows. Raises ProtocolError."""
    fields = unpack_value(payload)
    if type(fields) is not tuple or len(fields) != len(_TYPES):
        raise ProtocolError("a notification does not have 7 fields")
    if not all(type(field) in kinds for field, kinds in zip(fields, _TYPES, strict=True)):
        raise ProtocolError("a notification has fields of the wrong type")
    plugin, topic, session, owner, seq, moment, text = fields
    if seq < 0 or not math.isfinite(moment):
        raise ProtocolError("a notification's number or time is none")
    if len(text) > EVENT_LIMIT:
        raise ProtocolError("a notification's data is too large")
    if len(f"{text}.".splitlines()) > 1:  # a listener's server-sent event would end there
        raise ProtocolError("a notification's data runs over a line")
    try:
        data = parse_json(text)
    except ValueError:
        raise ProtocolError("a notification's data is not JSON") from None
    return Received(endpoint, plugin, topic, data, session, owner, seq, moment, text, host_owner)
