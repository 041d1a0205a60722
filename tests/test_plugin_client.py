import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from orbit_core.errors import (
    ConnectionLost,
    OrbitError,
    SessionExpired,
    TooManyRequests,
    UnknownRoute,
)
from orbit_core.plugin_client import PluginClient
from orbit_core.web import Site

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]


async def tell(request: Request) -> JSONResponse:
    return JSONResponse(
        {
            "query": dict(request.query_params),
            "body": (await request.body()).decode(),
            "key": request.headers.get("Idempotency-Key"),
        }
    )


async def register(request: Request) -> JSONResponse:
    assert len(request.headers["Idempotency-Key"]) == 32
    body = await request.body()
    return JSONResponse({"sid": f"session.{len(body)}"})


CLOSED: list[str] = []


async def unregister(request: Request) -> JSONResponse:
    CLOSED.append(request.path_params["sid"])
    if request.path_params["sid"] == "session.0":
        return JSONResponse({"ok": True})
    raise SessionExpired("it is over")


async def health(request: Request) -> JSONResponse:
    return JSONResponse({"status": "healthy"})


async def stream(request: Request) -> StreamingResponse:
    async def parts():
        yield b"one"
        yield b"two"

    return StreamingResponse(parts())


async def refuse(request: Request) -> Response:
    raise TooManyRequests("slower", retry_after=2)


async def nothing(request: Request) -> Response:
    return Response(status_code=204)


async def text(request: Request) -> Response:
    return Response("<html>")


SITE = Site.of(
    [
        Route("/n1/p/tell", tell, methods=["GET", "POST"]),
        Route("/n1/p/register_session", register, methods=["POST"]),
        Route("/n1/p/unregister_session/{sid}", unregister, methods=["POST"]),
        Route("/n1/p/health", health),
        Route("/n1/p/stream", stream),
        Route("/n1/p/refuse", refuse),
        Route("/n1/p/nothing", nothing),
        Route("/n1/p/text", text),
    ]
)


class Broken(httpx.AsyncBaseTransport):
    """Break every connection: at once, or after the first part of a reply."""

    def __init__(self, after=None):
        self.after = after

    async def handle_async_request(self, request):
        if self.after is None:
            raise httpx.ConnectError("")

        class Parts(httpx.AsyncByteStream):
            async def __aiter__(_):
                yield self.after
                raise httpx.ReadError("cut off")

        return httpx.Response(200, stream=Parts())


class Listener:
    """Keep what is registered."""

    def __init__(self):
        self.kept = []

    def register_callback(self, *what):
        self.kept.append(what)

    def unregister_callback(self, *what):
        self.kept.remove(what)


def client_over(transport, bridge=None):
    http = httpx.AsyncClient(transport=transport, base_url="http://bridge")
    return PluginClient(http, "/n1/p/", bridge, "n1", "p")


@pytest.fixture
def client():
    return client_over(httpx.ASGITransport(SITE))


@pytest.fixture
def closed():
    CLOSED.clear()
    return CLOSED


async def collect(parts):
    return [part async for part in parts]


async def test_parameters_that_are_none_are_left_out(client):
    reply = await client.get("tell", a=1, b=None, c="x y")

    assert reply["query"] == {"a": "1", "c": "x y"}


async def test_a_post_sends_json_and_its_key(client):
    assert await client.post("/tell") == {"query": {}, "body": "", "key": None}
    reply = await client.post("tell", {"a": 1}, idempotency_key="k")
    assert (reply["body"], reply["key"]) == ('{"a":1}', "k")


async def test_a_session_is_opened_and_closed(client):
    with pytest.raises(RuntimeError, match=r"^no active session: call register_session first$"):
        client._require_session()
    assert await client.register_session() == "session.0"
    assert (client.sid, client._require_session()) == ("session.0", "session.0")
    await client.unregister_session()
    assert client.sid is None
    await client.unregister_session()


async def test_settings_of_a_session_are_sent(client):
    assert await client.register_session(sid="abc") == "session.13"


async def test_a_session_that_cannot_be_closed_is_forgotten_all_the_same(client):
    await client.register_session(sid="abc")
    with pytest.raises(SessionExpired):
        await client.unregister_session()

    assert client.sid is None


@pytest.mark.parametrize(
    "settings",
    [{"sid": "abc"}, {"sid": "default"}, {"ttl": 5}, {"lifetime": "persistent"}],
    ids=["attached", "default", "ttl", "persistent"],
)
async def test_closing_a_client_leaves_a_session_alone_that_is_to_last(client, settings, closed):
    await client.register_session(**settings)
    await client.close()

    assert client.sid is None
    assert closed == []


@pytest.mark.parametrize(
    "settings",
    [{}, {"title": "x"}, {"lifetime": "ephemeral"}, {"sid": None, "ttl": None}],
    ids=["plain", "own settings", "ephemeral", "nulls"],
)
async def test_closing_a_client_closes_the_session_that_it_opened(client, settings, closed):
    sid = await client.register_session(**settings)
    await client.close()
    await client.close()

    assert client.sid is None
    assert closed == [sid]


async def test_a_session_that_does_not_close_with_its_client_is_logged(client, caplog):
    sid = await client.register_session(title="abc")
    await client.close()

    assert f"session {sid} of /n1/p is not closed: HTTP 410" in caplog.text


async def test_a_client_may_be_closed_after_its_bridge_client(client, caplog):
    await client.register_session()
    await client._http.aclose()
    await client.close()

    assert client.sid is None
    assert "session session.0 of /n1/p is not closed: Cannot send a request" in caplog.text


async def test_health_is_asked_for(client):
    assert await client.health() == {"status": "healthy"}


async def test_a_stream_comes_in_parts(client):
    assert b"".join(await collect(client.stream("stream"))) == b"onetwo"


async def test_a_refusal_becomes_the_error_that_was_raised(client):
    with pytest.raises(TooManyRequests) as told:
        await client.get("refuse")

    assert told.value.detail == "HTTP 429 [n1/p] GET refuse: slower"
    assert (told.value.status_code, told.value.retry_after) == (429, 2.0)


async def test_a_refusal_of_a_stream_becomes_the_error_that_was_raised(client):
    with pytest.raises(UnknownRoute, match=r"^HTTP 404 \[n1/p\] GET none: nothing is served at "):
        await collect(client.stream("none"))


async def test_an_empty_reply_is_none(client):
    assert await client.get("nothing") is None


async def test_a_reply_that_is_not_json_is_an_error(client):
    with pytest.raises(OrbitError) as told:
        await client.get("text")

    assert told.value.detail == "GET /n1/p/text was not answered with JSON"


@pytest.mark.parametrize(
    "call",
    [lambda client: client.get("x"), lambda client: anext(client.stream("x"))],
    ids=["get", "stream"],
)
async def test_a_broken_connection_is_told_as_such(call):
    with pytest.raises(ConnectionLost) as told:
        await call(client_over(Broken()))

    assert told.value.detail == "the connection broke during the reply: ConnectError"


async def test_a_stream_that_breaks_off_is_told_as_such():
    parts = client_over(Broken(b"first")).stream("x")
    assert await anext(parts) == b"first"
    with pytest.raises(ConnectionLost, match=r"^the connection broke during the reply: cut off$"):
        await anext(parts)


async def test_callbacks_are_for_this_plugin():
    bridge = Listener()
    client = client_over(Broken(), bridge)
    client.register_notification_callback(print, "topic")
    client.register_notification_callback(print)
    assert bridge.kept == [("n1", "p", "topic", print), ("n1", "p", None, print)]
    client.unregister_notification_callback(print, "topic")
    assert bridge.kept == [("n1", "p", None, print)]


@pytest.mark.parametrize("method", ["register", "unregister"])
async def test_callbacks_need_a_bridge_client(client, method):
    with pytest.raises(RuntimeError, match=r"^notifications need a client made by get_plugin$"):
        getattr(client, f"{method}_notification_callback")(print)
