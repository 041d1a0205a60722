"""Check what a client asks of its session."""

from typing import Any

import attrs

from orbit_core.errors import InvalidBody

from .feed import BATCH

WINDOW = 0.25
"""Seconds that a notification waits at most, unless the session says otherwise."""


def _at_least(least: float, default: float) -> Any:
    def check(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
        if type(value) not in (int, float) or not least <= value < float("inf"):  # type: ignore[operator]  # it is a number
            raise InvalidBody(f"{attribute.name} must be a number of at least {least}")

    return attrs.field(
        default=default, converter=attrs.converters.default_if_none(default), validator=check
    )


def _flag() -> Any:
    def check(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
        if not isinstance(value, bool):
            raise InvalidBody(f"{attribute.name} must be true or false")

    return attrs.field(default=True, validator=check)


@attrs.frozen
class SessionOptions:
    """Hold a session's options; ``init_timeout`` is the client's own affair.

    Without ``notify_tasks`` nobody is notified of tasks: who follows the results knows. Raises
    InvalidBody.
    """

    init_timeout: float | None = None
    notify_batch_window: float = _at_least(0, WINDOW)
    notify_batch_size: float = _at_least(1, BATCH)
    allow_pickled_tasks: bool = _flag()
    notify_tasks: bool = _flag()
