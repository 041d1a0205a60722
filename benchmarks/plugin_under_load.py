"""Be a plugin to put under load: a JSON route, a sink, a source, and bursts of notifications.

The bare application, the baseline, serves the same routes without bridge and endpoint.
"""

import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from orbit_core import PluginContext, hookimpl

CHUNK = bytes(64 * 1024)
FILE = Path(os.environ.get("BENCH_FILES", ".")) / "stored.bin"
"""Where the bare application keeps its one file."""

ANSWER = {"status": "ok", "value": 42, "items": [1, 2, 3]}


async def answer(request: Request) -> Response:
    """Answer with a small JSON document."""
    return JSONResponse(ANSWER)


async def sink(request: Request) -> Response:
    """Take a body of any size and say how many bytes came."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
    return JSONResponse({"size": size})


async def source(request: Request) -> Response:
    """Send as many bytes as ``size`` says."""
    size = int(request.query_params["size"])

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(size // len(CHUNK)):
            yield CHUNK

    return StreamingResponse(chunks(), headers={"Content-Length": str(size)})


async def store(request: Request) -> Response:
    """Write a body to a file, have it on disk, and say which SHA-256 arrived."""
    found = hashlib.sha256()
    with FILE.open("wb") as file:
        async for chunk in request.stream():
            file.write(chunk)
            found.update(chunk)
        file.flush()
        os.fsync(file.fileno())
    return JSONResponse({"sha256": found.hexdigest()})


async def fetch(request: Request) -> Response:
    """Send that file."""
    return FileResponse(FILE)


ROUTES = [
    Route("/answer", answer),
    Route("/sink", sink, methods=["POST", "PUT"]),
    Route("/source", source),
]


class LoadPlugin:
    """Serve the routes as a plugin."""

    version = "0"

    @hookimpl
    def register_routes(self, context: PluginContext) -> list[Route]:
        """Return the routes, and one that sends notifications."""

        async def burst(request: Request) -> Response:
            count, rate = (
                int(request.query_params["count"]),
                float(request.query_params.get("rate", 0)),
            )
            start = anyio.current_time()
            for number in range(count):
                context.notify("load", {"number": number, "sent": time.monotonic()})
                if rate:
                    await anyio.sleep(max(0.0, start + (number + 1) / rate - anyio.current_time()))
                elif number % 100 == 99:
                    await anyio.lowlevel.checkpoint()
            return JSONResponse({"count": count})

        return [*ROUTES, Route("/burst", burst, methods=["POST"])]


PLUGIN = LoadPlugin()


def bare() -> Any:
    """Return the baseline application, with its routes at the same paths."""
    files = [Route("/store", store, methods=["PUT"]), Route("/fetch", fetch)]
    return Starlette(routes=[Mount("/node/load", routes=[*ROUTES, *files])])
