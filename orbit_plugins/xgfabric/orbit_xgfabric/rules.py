"""Check single fields of the models, whoever makes them.

Each rule is an attrs validator that raises ValueError with the field's name.
"""

import re
from collections.abc import Callable
from typing import Any

from .values import name, shown

Rule = Callable[[Any, Any, Any], None]

YEAR = 366 * 24 * 3600.0
"""The longest time that can be waited for, in seconds."""

MANY = 100_000
"""The most that can be asked for of anything that is counted."""

_SCHEMES = ("", "woof", "http", "https")
_SCHEME = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*)://)?(.*)")


def within(least: float, most: float) -> Rule:
    """Return the rule that a number is between two others, or None where the field allows it."""

    def check(_: Any, attribute: Any, value: Any) -> None:
        if value is not None and not least <= value <= most:
            raise ValueError(f"{attribute.name} must be {least:g} to {most:g}, not {shown(value)}")

    return check


def names(_: Any, __: Any, value: Any) -> None:
    """Check that the members of a list, or the keys of a dict, can be part of a path."""
    for member in value:
        name(member)


def log_url(_: Any, attribute: Any, value: Any) -> None:
    """Check the address of a sensor's log: ``woof://host[:port]/path/name``, or a local name."""
    scheme, rest = _SCHEME.fullmatch(value).groups() if value.isprintable() else (None, "")  # type: ignore[union-attr]
    if not rest or (scheme or "") not in _SCHEMES or rest.startswith("-") or " " in value:
        raise ValueError(
            f"{attribute.name} must be like woof://host/path/name, with woof, http, https or no "
            f"scheme, not {shown(value)}"
        )
