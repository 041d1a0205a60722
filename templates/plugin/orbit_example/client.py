"""Talk to the plugin from afar."""

import uuid

from orbit_core import PluginClient


class ExampleClient(PluginClient):
    """Count in the session that `register_session` opened."""

    async def add(self, amount: int = 1) -> int:
        """Add to the counter and return its value; a broken connection counts once."""
        route = f"add/{self._require_session()}"
        reply = await self.post(route, {"amount": amount}, idempotency_key=uuid.uuid4().hex)
        return int(reply["value"])
