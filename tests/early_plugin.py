"""Be a plugin that calls and notifies as soon as it is loaded, before its endpoint is linked."""

import anyio
from starlette.routing import BaseRoute

from orbit_core import hookimpl
from orbit_core.context import PluginContext

EARLY = f"{__name__}:EarlyPlugin"


class EarlyPlugin:
    """Ask the bridge for its endpoints, and say so."""

    plugin_name = "early"

    def __init__(self, context: PluginContext, name: str) -> None:
        self.answered = anyio.Event()
        self.endpoints: list[str] = []

    @hookimpl
    def register_routes(self, context: PluginContext) -> list[BaseRoute]:
        context.notify("news", "loaded")
        context.background(self._ask, context)
        return []

    async def _ask(self, context: PluginContext) -> None:
        self.endpoints = list(await context.hub.list_endpoints())
        self.answered.set()
