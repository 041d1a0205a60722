"""Be the plugin that the tests of the core put on their endpoints."""

import zlib

import anyio
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from orbit_core import OrbitError, hookimpl

PROBE = f"{__name__}:ProbePlugin"
PART = bytes(range(256)) * 256


class ProbePlugin:
    """Echo, sink, source, hang, fail, notify, and call others through the hub."""

    plugin_name = "probe"
    version = "1.2"

    def __init__(self, context, name):
        self.context = context
        self.entered = 0
        self.cancelled = 0
        self.flaky = 0
        self.topologies = []
        self.go = anyio.Event()

    @hookimpl
    def on_topology_change(self, topology):
        self.topologies.append(topology)

    @hookimpl
    def register_routes(self, context):
        return [
            Route("/echo", self.echo, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
            Route("/sink", self.sink, methods=["POST"]),
            Route("/sum", self.sum_up, methods=["POST"]),
            Route("/source", self.source),
            Route("/hang", self.hang, methods=["GET", "POST"]),
            Route("/trickle", self.trickle),
            Route("/break", self.break_off),
            Route("/bad_header", self.bad_header),
            Route("/cookie", self.cookie),
            Route("/notify", self.notify, methods=["POST"]),
            Route("/hub", self.hub, methods=["POST"]),
            Route("/item/{item}", self.item),
            Route("/text", self.text),
            Route("/busy", self.busy, methods=["GET", "POST"]),
        ]

    async def echo(self, request):
        """Answer with what was asked."""
        body = await request.body()
        principal = request.scope["orbit.principal"]
        return JSONResponse(
            {
                "method": request.method,
                "query": request.url.query,
                "headers": dict(request.headers),
                "body": body.decode("latin-1"),
                "owner": principal.owner,
                "role": principal.role,
                "endpoint": principal.endpoint,
            }
        )

    async def sink(self, request):
        """Count the bytes of a body."""
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
        return JSONResponse({"size": size})

    async def sum_up(self, request):
        """Count the bytes of a body and take their checksum."""
        size = checksum = 0
        async for chunk in request.stream():
            size += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
        return JSONResponse({"size": size, "checksum": checksum})

    async def source(self, request):
        """Send as many parts as asked."""
        count = int(request.query_params["parts"])

        async def parts():
            for _ in range(count):
                yield PART

        return StreamingResponse(parts())

    async def hang(self, request):
        """Answer only when told to go."""
        self.entered += 1
        try:
            await self.go.wait()
        except BaseException:
            self.cancelled += 1
            raise
        return JSONResponse({"went": True})

    async def trickle(self, request):
        """Send a part, then hang."""

        async def parts():
            self.entered += 1
            try:
                yield b"part\n"
                await self.go.wait()
            finally:
                self.cancelled += 1

        return StreamingResponse(parts())

    async def break_off(self, request):
        """Fail after the first part."""

        async def parts():
            yield b"part"
            raise OrbitError("broken on purpose")

        return StreamingResponse(parts())

    async def bad_header(self, request):
        """Answer with a header that is none."""
        response = JSONResponse({})
        response.raw_headers.append((b"x-bad", b"one\r\ntwo: three"))
        return response

    async def cookie(self, request):
        """Try to set a cookie on the bridge's origin."""
        response = JSONResponse({})
        response.set_cookie("stolen", "1")
        return response

    async def notify(self, request):
        """Publish what is given."""
        body = await request.json()
        self.context.notify(body.get("topic", "news"), body.get("data"), owner=body.get("owner"))
        return JSONResponse({"ok": True})

    async def hub(self, request):
        """Call a route elsewhere."""
        body = await request.json()
        content = b"x" * body["size"] if "size" in body else None
        answer = await self.context.hub.http.request(
            body.get("method", "GET"), body["path"], content=content
        )
        return JSONResponse({"status": answer.status_code, "answer": answer.json()})

    async def item(self, request):
        """Answer with a parameter."""
        return JSONResponse({"item": request.path_params["item"]})

    async def text(self, request):
        """Answer with text that is no JSON."""
        return StreamingResponse(iter([b"plain"]), media_type="text/plain")

    async def busy(self, request):
        """Refuse the first call and take the next."""
        self.flaky += 1
        status = 503 if self.flaky == 1 else 200
        return JSONResponse({"calls": self.flaky}, status_code=status)


def probe_of(endpoint):
    """Return the probe that an endpoint serves."""
    return endpoint.host.plugins.served["probe"].plugin


async def notify(client, data, topic="news", owner=None, endpoint="node"):
    """Have the probe of an endpoint publish."""
    body = {"topic": topic, "data": data, "owner": owner}
    await client.request("POST", f"/{endpoint}/probe/notify", body)
