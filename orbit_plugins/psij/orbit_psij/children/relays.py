"""Open the parent's relay once the first child may want it, and tell children where it is."""

import logging
from collections.abc import Callable
from hmac import compare_digest
from pathlib import Path

from orbit_core import PluginContext
from orbit_core.errors import ConfigError
from orbit_core.ways.address import own_addresses
from orbit_core.ways.models import RelayAddress
from orbit_core.ways.relay import Relay
from orbit_core.ways.relaying import relay_key

from .child import Child
from .models import ChildSettings

logger = logging.getLogger(__name__)


class ChildRelay:
    """Own the relay of one parent."""

    def __init__(
        self,
        context: PluginContext,
        settings: ChildSettings,
        token_of: Callable[[str], str | None],
    ) -> None:
        """Let through whose token ``token_of(name)`` returns."""
        self._context = context
        self._settings = settings
        self._relay = Relay(context.bridge_url, self._allows)
        self._is_open = False
        self._token_of = token_of

    async def offer(self, child: Child, *, needed: bool) -> None:
        """Tell a child where the relay is.

        Raises ConfigError if there is none because it cannot listen, and it is ``needed``.
        """
        settings = self._settings
        try:
            await self._open()
        except ConfigError as error:
            if needed:
                raise
            logger.warning("children go without a relay: %s", error.detail)
            return
        hosts = [settings.login_host] if settings.login_host else []
        address = RelayAddress([*hosts, *own_addresses()], self._relay.port, settings.relay_cert)
        await child.meeting.write("relay", address)

    def cut(self, name: str) -> None:
        """End the connections of a child, which is over."""
        self._relay.cut(name)

    async def _open(self) -> None:
        if self._is_open:
            return
        settings = self._settings
        cert, key = (
            None if path is None else Path(path)
            for path in (settings.relay_cert, settings.relay_key)
        )
        await self._relay.listen(settings.relay_host, settings.relay_port, cert, key)
        self._is_open = True
        self._context.background(self._relay.run)

    def _allows(self, name: str, key: str) -> bool:
        token = self._token_of(name)
        return token is not None and compare_digest(relay_key(token).encode(), key.encode())
