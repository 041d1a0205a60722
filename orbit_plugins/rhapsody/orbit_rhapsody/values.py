"""Encode what functions take and return, so that it arrives as it was.

What JSON or msgpack hold faithfully travels as it is; a tuple of such as a list that is marked; all
else as a pickle, which nobody opens who was not told to.
"""

import base64
import hashlib
import json
import pickle
import sys
from typing import Any, Literal

import attrs
import cloudpickle
import msgpack

PREFIX = "cloudpickle::"
"""What stands before the base64 of a pickle where bytes cannot stand."""

Encoding = Literal["tuple", "base64", "cloudpickle", "repr"]

PREVIEW = 200
"""Characters that are shown of a value that stays closed."""

_FAITHFUL = frozenset({float, bool, bytes, type(None)})
_LEAST_INT, _INT_LIMIT = -(2**63), 2**64

_DEPTH = 50


def is_plain(value: Any, depth: int = 0) -> bool:
    """Tell whether msgpack gives ``value`` back exactly: a subclass or a tuple it would not."""
    kind = type(value)
    if kind in _FAITHFUL:
        return True
    if kind is int:
        return bool(_LEAST_INT <= value < _INT_LIMIT)
    if kind is str:
        return value.isascii() or _is_text(value)
    if depth == _DEPTH:
        return False
    if kind is list:
        return all(is_plain(item, depth + 1) for item in value)
    if kind is dict:
        return all(
            type(key) is str and is_plain(key) and is_plain(item, depth + 1)
            for key, item in value.items()
        )
    return False


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@attrs.frozen(repr=False)
class Pickled:
    """Hold a value that is still pickled: opening it may run any code that its maker chose."""

    data: bytes
    preview: str = ""

    def open(self) -> Any:
        """Unpickle the value, trusting whoever made it."""
        return pickle.loads(self.data)

    @property
    def sha256(self) -> str:
        """Return the digest by which an endpoint may list a function."""
        return hashlib.sha256(self.data).hexdigest()

    def __repr__(self) -> str:
        """Show what is known of the value without opening it."""
        return f"<pickled {self.preview or f'{len(self.data)} bytes'}>"


def encode(value: Any) -> dict[str, Any]:
    """Return the fields of a result that carry ``value``; it is never refused."""
    if is_plain(value):
        return {"return_value": value}
    if type(value) is tuple and is_plain(list(value)):
        return {"return_value": list(value), "_return_value_encoding": "tuple"}
    try:
        data = cloudpickle.dumps(value)
    except Exception:  # noqa: BLE001  # a value may refuse in any way
        return {"return_value": preview(value), "_return_value_encoding": "repr"}
    return {
        "return_value": data,
        "_return_value_encoding": "cloudpickle",
        "return_preview": preview(value),
    }


def preview(value: object) -> str:
    """Return the beginning of what ``repr`` says, whatever it raises."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # a value may refuse in any way
        text = f"<{type(value).__name__}>"
    return text[:PREVIEW].encode("utf-8", "backslashreplace").decode()


def decode(result: dict[str, Any]) -> Any:
    """Return the value that a result carries, a pickle still closed as `Pickled`."""
    value = result.get("return_value")
    match result.get("_return_value_encoding"):
        case "tuple":
            return tuple(value) if isinstance(value, list) else value
        case "base64":
            return base64.b64decode(str(value))
        case "cloudpickle":
            return Pickled(unwrap(value), str(result.get("return_preview", "")))
        case _:
            return value


def wrap(data: bytes) -> str:
    """Return a pickle as text."""
    return PREFIX + base64.b64encode(data).decode()


def unwrap(value: object) -> bytes:
    """Return a pickle from bytes or from its text. Raises ValueError."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value.startswith(PREFIX):
        raise ValueError(f"expected bytes, or text that begins with {PREFIX!r}")
    return base64.b64decode(value.removeprefix(PREFIX), validate=True)


def for_json(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result as JSON data: bytes become base64, and what JSON lacks a pickle."""
    found = dict(result)
    value = found.get("return_value")
    if found.get("_return_value_encoding") == "cloudpickle":
        found["return_value"] = wrap(value) if isinstance(value, bytes) else value
    elif isinstance(value, bytes):
        found |= {
            "return_value": base64.b64encode(value).decode(),
            "_return_value_encoding": "base64",
        }
    elif not _is_json(value):
        found |= {
            "return_value": wrap(cloudpickle.dumps(decode(result))),
            "_return_value_encoding": "cloudpickle",
            "return_preview": preview(value),
        }
    if isinstance(found.get("_exception"), bytes):
        found["_exception"] = wrap(found["_exception"])
    return found


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def pack(value: object) -> bytes:
    """Return msgpack."""
    return bytes(msgpack.packb(value, use_bin_type=True))


def python_version() -> str:
    """Return this Python's version as far as pickled functions depend on it, such as ``3.11``."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"
