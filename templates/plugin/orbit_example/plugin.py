"""Serve a counter for each session."""

from typing import Any

from starlette.requests import Request

from orbit_core import Plugin, PluginContext, PluginSession
from orbit_core.errors import InvalidBody
from orbit_core.web import json_body


class ExampleSession(PluginSession):
    """Hold one caller's counter; ``first`` comes from the body of ``register_session``."""

    def __init__(self, sid: str, first: int = 0) -> None:
        """Begin to count at ``first``."""
        super().__init__(sid)
        self.value = first

    def add(self, amount: int) -> int:
        """Count on, and tell whoever listens."""
        self.value += amount
        self.notify("counted", {"value": self.value})
        return self.value


class ExamplePlugin(Plugin):
    """Offer counters."""

    plugin_name = "example"
    session_class = ExampleSession
    version = "0.1.0"

    def __init__(self, context: PluginContext, instance_name: str | None = None) -> None:
        """Add the plugin's routes to the standard ones."""
        super().__init__(context, instance_name)
        self.add_route_post("add/{sid}", self._add, idempotent=True)

    async def _add(self, request: Request) -> dict[str, Any]:
        """Add to the session's counter."""
        session: ExampleSession = await self.session(request)
        amount = (await json_body(request)).get("amount", 1)
        if type(amount) is not int:
            raise InvalidBody("'amount' must be a whole number")
        return {"value": session.add(amount)}
