"""Read a body of ``submit`` and load its functions, off the event loop where that may take long."""

from collections.abc import Callable
from typing import Any

import anyio.to_thread

from orbit_core.errors import InvalidBody

from .calls import is_loaded, load
from .specs import Policy, read_tasks
from .task import Work

SMALL = 16 * 1024
"""Bytes of a body that is read on the event loop."""

Decode = Callable[[bytes], Any]


async def read(raw: bytes, decode: Decode, policy: Policy) -> list[Work]:
    """Return what a body asks for.

    Raises InvalidBody, PicklesRefused, PythonMismatch, UnknownFunction.
    """
    if len(raw) <= SMALL:
        works = _works(decode(raw), policy)
        if all(work.call is None or is_loaded(work.call.function) for work in works):
            return works
    return await anyio.to_thread.run_sync(_read, raw, decode, policy)


def _read(raw: bytes, decode: Decode, policy: Policy) -> list[Work]:
    """Do the same where it may block."""
    works = _works(decode(raw), policy)
    for function in {work.call.function for work in works if work.call is not None}:
        load(function)
    return works


def _works(body: object, policy: Policy) -> list[Work]:
    if not isinstance(body, dict):
        raise InvalidBody(f"the body must be an object, not a {type(body).__name__}")
    return read_tasks(body, policy)
