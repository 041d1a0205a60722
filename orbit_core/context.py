"""Lend a plugin what it may use of its host: a typed context instead of the host itself."""

import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anyio.lowlevel
import attrs

from ._codec import from_config
from ._store import Space
from .models import HostInfo, Notification

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Background(Protocol):
    """Start a background task that the host owns."""

    def __call__(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run ``function(*args)`` until it ends or the host stops; a failure is logged, no more."""
        ...


class Notifier:
    """Stamp notifications in order and hand them to the host, from any thread."""

    def __init__(self, endpoint: str, deliver: Callable[[Notification], None]) -> None:
        """Name the endpoint and what receives each stamped notification, on the loop."""
        self._endpoint = endpoint
        self._deliver = deliver
        self._waiting: deque[Notification] = deque()
        self._counters: dict[tuple[str, str | None], int] = {}
        self._thread = threading.get_ident()
        # The one place where a foreign thread enters the loop: all of anyio's ways there wait.
        self._loop: Any = anyio.lowlevel.current_token().native_token
        self._context = copy_context()  # a thread's own does not tell anyio where it is
        self._is_scheduled = False
        self._is_delivering = False

    def publish(self, notification: Notification) -> None:
        """Queue a notification; on the loop's own thread it is delivered before this returns.

        What is published by whoever hears a notification is delivered after it to everybody.
        """
        self._waiting.append(notification)
        if threading.get_ident() == self._thread:
            self._drain()
        elif not self._is_scheduled:
            self._is_scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._drain, context=self._context)
            except RuntimeError:
                logger.debug("a notification of %s came after the end", notification.plugin)

    def forget(self, plugin: str, session: str) -> None:
        """Drop the counter of a session that ended."""
        self._counters.pop((plugin, session), None)

    def _drain(self) -> None:
        self._is_scheduled = False
        if self._is_delivering:
            return
        self._is_delivering = True
        try:
            while self._waiting:
                self._deliver(self._stamp(self._waiting.popleft()))
        finally:
            self._is_delivering = False

    def _stamp(self, notification: Notification) -> Notification:
        key = (notification.plugin, notification.session)
        seq = self._counters[key] = self._counters.get(key, 0) + 1
        return attrs.evolve(notification, endpoint=self._endpoint, seq=seq, time=time.time())


@attrs.frozen(eq=False, kw_only=True)
class PluginContext:
    """Give one plugin instance its host's services.

    ``endpoint`` and ``instance`` name where the plugin is served (``/{endpoint}/{instance}``);
    ``documents`` is its durable key-value space and ``directory`` its own folder under the state
    directory; ``find_hub`` finds its `hub`; the bridge is at ``bridge_url`` and trusted by
    ``bridge_cert`` if that is not None (a plugin alone in a test has neither); ``background``
    starts tasks that the host owns, and ``on_stop`` takes functions that it calls before it goes.
    """

    host: HostInfo
    endpoint: str
    instance: str
    documents: Space
    directory: Path
    notifier: Notifier
    background: Background
    on_stop: Callable[[Callable[[], Awaitable[None]]], None]
    find_hub: Callable[[], Any] | None
    bridge_url: str = ""
    bridge_cert: Path | None = None
    raw_settings: dict[str, Any] = attrs.field(factory=dict)

    @property
    def hub(self) -> Any:
        """Return the client API, an `orbit_core.AsyncBridgeClient`, over this host's own link.

        It is made when it is first asked for; a plugin alone in a test has none.
        """
        return None if self.find_hub is None else self.find_hub()

    def settings(self, kind: type[T]) -> T:
        """Return the plugin's section of the configuration, ``[plugin.INSTANCE]``, as a ``kind``.

        Raises ConfigError, which keeps the plugin from being served and is shown as its reason.
        """
        return from_config(self.raw_settings, kind, f"[plugin.{self.instance}]")

    def notify(
        self, topic: str, data: Any, *, session: str | None = None, owner: str | None = None
    ) -> None:
        """Call the ``notify`` hook on everyone here; safe from any thread, never blocks.

        ``data`` must be JSON data. With an ``owner``, only that owner and admins hear it.
        """
        self.notifier.publish(
            Notification(
                endpoint=self.endpoint,
                plugin=self.instance,
                topic=topic,
                data=data,
                session=session,
                owner=owner,
            )
        )
