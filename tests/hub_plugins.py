"""Be plugins that call others through the hub, before their host is there for others and after."""

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from orbit_core import OrbitError, hookimpl
from orbit_core.context import PluginContext

EARLY = f"{__name__}:EarlyPlugin"
LATE = f"{__name__}:LatePlugin"
LAST = f"{__name__}:LastPlugin"


class EarlyPlugin:
    """Ask the bridge for its endpoints as soon as it is loaded, and notify of that."""

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


class LatePlugin:
    """Wait for an answer until its host stops, ask again, and once more when told to let go."""

    plugin_name = "late"
    last = "/endpoints"

    def __init__(self, context: PluginContext, name: str) -> None:
        self.asks = anyio.Event()
        self.answers: list[str] = []

    @hookimpl
    def register_routes(self, context: PluginContext) -> list[BaseRoute]:
        context.background(self._wait, context)
        context.on_stop(lambda: self._ask(context, "GET", self.last))
        return [Route("/wait", self._serve)]

    async def _serve(self, request: Request) -> Response:
        self.answers.append("asked")
        try:
            await anyio.sleep_forever()
        finally:
            self.answers.append("left")

    async def _wait(self, context: PluginContext) -> None:
        await self.asks.wait()
        await self._ask(context, "POST", "/node/probe/hang")
        await self._ask(context, "GET", "/endpoints")

    async def _ask(self, context: PluginContext, method: str, path: str) -> None:
        try:
            await context.hub.request(method, path)
            self.answers.append("answered")
        except OrbitError as error:
            self.answers.append(error.detail)


class LastPlugin(LatePlugin):
    """Ask an endpoint when told to let go."""

    last = "/node/plugins"
