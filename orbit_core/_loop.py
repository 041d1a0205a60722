"""Run a server's event loop, and say when the garbage collector may hold it up."""

import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from ._memory import keep_at_hand

COLLECT_AFTER = (50_000, 20, 20)
"""Thresholds of the garbage collector. What a call leaves is freed by counting references; looking
for circles after every 700 objects, as Python does, takes an eighth of the time of small calls."""


@contextmanager
def collecting_late() -> Iterator[None]:
    """Collect no garbage until `begin_collecting` is called, or the context is left.

    What a server imports stays for good: to look through it over and over takes a tenth of its
    start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()


def begin_collecting() -> None:
    """Collect garbage from now on, but never among what is here already.

    That is a server's code, mostly: each full search of it would hold up every call for 50 ms.
    """
    gc.freeze()
    gc.enable()


def run_server(function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    """Run ``function`` to its end on uvloop."""
    before = gc.get_threshold()
    gc.set_threshold(*COLLECT_AFTER)
    keep_at_hand()
    try:
        anyio.run(function, *arguments, backend_options={"use_uvloop": True})
    finally:
        gc.set_threshold(*before)
