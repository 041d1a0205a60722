"""Be a plugin that answers byte for byte what its caller says, be it HTTP or not."""

import anyio
from starlette.routing import Route

from orbit_core import hookimpl
from orbit_core.web import json_body


class _Answer:
    def __init__(self, status, headers, parts):
        self._start = {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in headers],
        }
        self._parts = parts

    async def __call__(self, scope, receive, send):
        await send(self._start)
        for part in self._parts:
            await send({"type": "http.response.body", "body": part.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@hookimpl
def register_routes(context):
    async def answer(request):
        """Answer with the status, headers and body parts that the body gives."""
        wanted = await json_body(request)
        return _Answer(
            wanted.get("status", 200), wanted.get("headers", []), wanted.get("parts", [])
        )

    async def hang(request):
        """Answer never."""
        await anyio.sleep_forever()

    return [
        Route("/hang", hang),
        Route("/answer", answer, methods=["GET", "HEAD", "POST", "OPTIONS"]),
    ]
