"""Offer `SysInfoSession`, one client's view of the shared provider."""

from typing import Any

from orbit_core.sessions import PluginSession

from .models import Metrics
from .provider import SysInfoProvider


class SysInfoSession(PluginSession):
    """Answer one client from what all sessions share."""

    def __init__(self, sid: str, provider: SysInfoProvider, /, **settings: Any) -> None:
        """Keep the provider; there are no settings to take."""
        super().__init__(sid, **settings)
        self._provider = provider

    async def metrics(self) -> Metrics:
        """Return a sample of this host. Raises SessionExpired once closed."""
        self._check_active()
        return await self._provider.metrics()
