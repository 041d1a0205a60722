"""Be a plugin without a class: a module with hooks is enough."""

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from orbit_core import HostInfo, HostRole, PluginContext, hookimpl


@hookimpl
def is_enabled(host: HostInfo) -> bool:
    """Serve every host but the bridge."""
    return host.role is not HostRole.BRIDGE


@hookimpl
def register_routes(context: PluginContext) -> list[Route]:
    """Serve one route."""

    async def hello(request: Request) -> JSONResponse:
        """Greet the caller."""
        return JSONResponse({"hello": context.endpoint})

    return [Route("/hello", hello)]
