"""Call users' functions when something happens that they asked for."""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import anyio.to_thread

from ._event_reader import Event
from ._guard import outlive
from .plugin_client import Callback

logger = logging.getLogger(__name__)

TopologyCallback = Callable[[dict[str, Any]], Any]

Pattern = tuple[str | None, str | None, str | None]
"""Endpoint, plugin and topic of notifications; None is for all."""


class Callbacks:
    """Hold who wants to hear what; none that fails can keep others from hearing it.

    ``are_in_threads`` says that callbacks may block: each is called in a thread.
    """

    def __init__(self) -> None:
        """Begin with nobody."""
        self.are_in_threads = False
        self._notified: list[tuple[Pattern, Callback]] = []
        self._topology: list[TopologyCallback] = []

    def add(self, pattern: Pattern, callback: Callback) -> None:
        """Call ``callback(endpoint, plugin, topic, data)`` for what matches."""
        self._notified.append((pattern, callback))

    def remove(self, pattern: Pattern, callback: Callback) -> None:
        """Stop calling ``callback`` for this."""
        self._notified.remove((pattern, callback))

    def add_topology(self, callback: TopologyCallback) -> None:
        """Call ``callback(endpoints)`` with the endpoints by name."""
        self._topology.append(callback)

    def remove_topology(self, callback: TopologyCallback) -> None:
        """Stop calling ``callback``."""
        self._topology.remove(callback)

    async def tell(self, event: Event) -> None:
        """Call everybody who is to hear of an event, one after the other."""
        if event.kind == "topology":
            for callback in list(self._topology):
                await self.call(callback, event.data["endpoints"])
        elif event.kind == "notification":
            found = (event.data["endpoint"], event.data["plugin"], event.data["topic"])
            for pattern, notify in list(self._notified):
                if all(want in (None, have) for want, have in zip(pattern, found, strict=True)):
                    await self.call(notify, *found, event.data["data"])

    async def call(self, callback: Callable[..., Any], *arguments: Any) -> None:
        """Call one; its failure is logged."""
        with outlive(logger, "the callback %r failed", callback):
            if self.are_in_threads:
                await anyio.to_thread.run_sync(lambda: callback(*arguments))
            else:
                result = callback(*arguments)
                if inspect.isawaitable(result):
                    await result
