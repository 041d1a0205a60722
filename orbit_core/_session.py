"""Offer `PluginSession`, what one client's state inside one plugin is built on."""

from collections.abc import Callable
from typing import Any

from .errors import InvalidBody, SessionExpired


class PluginSession:
    """Hold one client's state inside one plugin; plain async methods that know nothing of HTTP.

    ``owner`` (None: everybody's), ``notify`` and ``_plugin``, the plugin instance, are set by the
    host before `start` is called.
    """

    def __init__(self, sid: str, /, **settings: Any) -> None:
        """Keep the id; a subclass takes the settings of its ``register_session`` as keywords."""
        if settings:
            raise InvalidBody(
                f"this plugin's sessions take no settings, got: {', '.join(sorted(settings))}"
            )
        self.sid = sid
        self.is_active = True
        self.owner: str | None = None
        self.notify: Callable[[str, Any], None] = lambda topic, data: None
        self._plugin: Any = None

    async def start(self, *, restored: bool) -> None:
        """Begin work; ``restored`` tells that the session existed before the host was restarted."""

    async def close(self) -> dict[str, Any]:
        """Release everything the session holds; called once, at unregistering or expiry."""
        self.is_active = False
        return {}

    async def suspend(self) -> None:
        """Let go without ending anything: the host stops, and the session will come back."""

    def _check_active(self) -> None:
        if not self.is_active:
            raise SessionExpired(f"session {self.sid} is closed: register a new one")
