import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import attrs
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, Router, WebSocketRoute

from orbit_core.errors import (
    Conflict,
    OrbitError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnknownSession,
)
from orbit_core.models import Principal, Role
from orbit_core.web import (
    Reply,
    ResponseAborted,
    Site,
    error_reply,
    flag_parameter,
    integer_parameter,
    json_body,
    model_body,
    principal_of,
    read_body,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]

LIMIT = 1000


@attrs.frozen
class Job:
    name: str
    size: int = 1


async def body(request: Request) -> Response:
    return Reply({"got": await json_body(request, LIMIT)})


async def twice(request: Request) -> Response:
    return Reply([len(await read_body(request)), len(await read_body(request))])


async def model(request: Request) -> Response:
    return Reply({"job": await model_body(request, Job)})


async def strict(request):
    return Reply({"job": await model_body(request, Job, strict=True)})


async def parameters(request: Request) -> Response:
    return Reply([integer_parameter(request, "n", 7), flag_parameter(request, "flag")])


async def who(request: Request) -> Response:
    return Reply(principal_of(request))


async def nothing(request: Request) -> Response:
    return PlainTextResponse("")


async def raising(request: Request) -> Response:
    raise request.scope["test.error"]


async def breaking(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        yield b"part"
        raise request.scope["test.error"]

    return StreamingResponse(parts())


SUB = [Route("/x", nothing, methods=["PUT"]), Route("/x", nothing)]

SITE = Site.of(
    [
        Route("/body", body, methods=["POST"]),
        Route("/twice", twice, methods=["POST"]),
        Route("/model", model, methods=["POST"]),
        Route("/strict", strict, methods=["POST"]),
        Route("/parameters", parameters),
        Route("/who", who),
        Route("/raising", raising),
        Route("/breaking", breaking),
        WebSocketRoute("/thing", nothing),
        Route("/thing", nothing, methods=["GET"]),
        Route("/thing", nothing, methods=["DELETE"]),
        Mount("/sub", Router(SUB, redirect_slashes=False)),
    ]
)


def client(**scope: Any) -> httpx.AsyncClient:
    async def app(given: Any, receive: Any, send: Any) -> None:
        await SITE({**given, **scope}, receive, send)

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://site")


async def answer(method: str, path: str, **options: Any) -> httpx.Response:
    scope = options.pop("scope", {})
    async with client(**scope) as http:
        return await http.request(method, path, **options)


def document(status: int, code: str, detail: str) -> dict[str, Any]:
    return {"error": True, "status_code": status, "detail": detail, "code": code}


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b'{"a": NaN}', "NaN is no JSON value"),
        (b'{"a": -Infinity}', "-Infinity is no JSON value"),
        (b"\xff\xfe{", "'utf-16-le' codec can't decode byte 0x7b in position 2: truncated data"),
        (b'{"a": 1}\x00', "Extra data: line 1 column 9 (char 8)"),
        (b"\n", "Expecting value: line 2 column 1 (char 1)"),
    ],
    ids=["cut off", "nan", "infinity", "not utf-8", "zero byte", "nothing but a line's end"],
)
async def test_a_body_that_is_not_json_is_refused(raw, fault):
    reply = await answer("POST", "/body", content=raw)

    assert reply.json() == document(400, "invalid_body", f"the body is not JSON: {fault}")


@pytest.mark.parametrize("depth", [100, 400, 100_000])
async def test_a_deep_body_is_refused_before_it_can_hurt(depth):
    raw = b'{"name": ' + b"[" * depth + b"]" * depth + b"}"

    reply = await answer("POST", "/model", content=raw)

    detail = "the body is not JSON: it is nested too deeply"
    assert reply.json() == document(400, "invalid_body", detail)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [(b"[1]", "list"), (b'"a"', "str"), (b"1", "int"), (b"null", "NoneType"), (b"true", "bool")],
    ids=["list", "text", "number", "null", "boolean"],
)
async def test_a_body_that_is_no_object_is_refused(raw, kind):
    reply = await answer("POST", "/body", content=raw)

    detail = f"the body must be a JSON object, not a {kind}"
    assert reply.json() == document(400, "invalid_body", detail)


async def test_an_empty_body_is_an_empty_object():
    assert (await answer("POST", "/body", content=b"")).json() == {"got": {}}


@given(raw=st.binary(max_size=60))
def test_any_bytes_are_json_or_refused(raw):
    reply = anyio.run(lambda: answer("POST", "/body", content=raw))

    assert reply.status_code in (200, 400)


@pytest.mark.parametrize(
    "headers",
    [{}, {"content-length": "1001"}, {"content-length": "9" * 5000}],
    ids=["counted", "announced", "absurd"],
)
async def test_a_body_over_the_limit_is_refused(headers):
    reply = await answer("POST", "/body", content=_chunks(b"x" * 600, b"x" * 600), headers=headers)

    detail = "this route takes at most 1000 bytes: send less, or in parts"
    assert reply.json() == document(413, "body_too_large", detail)


async def _chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_body_of_exactly_the_limit_is_taken():
    raw = b'{"a":"' + b"x" * (LIMIT - 8) + b'"}'

    assert (await answer("POST", "/body", content=raw)).status_code == 200


async def test_a_body_can_be_read_twice():
    assert (await answer("POST", "/twice", content=b"abc")).json() == [3, 3]


async def test_a_model_names_every_fault_with_its_path():
    reply = await answer("POST", "/model", json={"size": "2", "more": 1})

    detail = "body: required field missing at name; expected int, got str at size"
    assert reply.json() == document(400, "invalid_body", detail)


async def test_a_model_ignores_what_it_does_not_know():
    reply = await answer("POST", "/model", json={"name": "a", "more": 1})

    assert reply.json() == {"job": {"name": "a", "size": 1}}


async def test_a_strict_model_refuses_what_it_does_not_know():
    reply = await answer("POST", "/strict", json={"name": "a", "more": 1})

    assert reply.json() == document(400, "invalid_body", "body: unknown: more")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [7, False]),
        ("?n=0&flag=true", [0, True]),
        ("?n=12&flag=1", [12, True]),
        ("?flag=FALSE", [7, False]),
    ],
    ids=["absent", "given", "digit", "capitals"],
)
async def test_parameters_are_read(query, found):
    assert (await answer("GET", f"/parameters{query}")).json() == found


@pytest.mark.parametrize(
    "text", ["-1", "1.5", "", "x", "٣", "9" * 5000], ids=lambda text: ascii(text)[:8]
)
async def test_a_number_that_is_none_is_refused(text):
    reply = await answer("GET", "/parameters", params={"n": text})

    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")
    assert reply.json()["detail"].startswith(
        "the parameter 'n' must be a whole number of at least 0, not '"
    )


async def test_a_flag_that_is_none_is_refused():
    reply = await answer("GET", "/parameters?flag=yes")

    detail = "the parameter 'flag' must be true or false, not 'yes'"
    assert reply.json() == document(400, "bad_request", detail)


async def test_a_request_knows_its_principal():
    alice = Principal("alice", Role.CLIENT, "t1")

    reply = await answer("GET", "/who", scope={"orbit.principal": alice})

    assert reply.json() == {"owner": "alice", "role": "client", "token_id": "t1", "endpoint": None}


async def test_a_request_without_identity_is_refused():
    reply = await answer("GET", "/who")

    detail = "this request carries no identity: go through the bridge"
    assert reply.json() == document(401, "unauthorized", detail)
    assert reply.headers["WWW-Authenticate"] == "Bearer"


async def test_an_unknown_path_is_named():
    reply = await answer("GET", "/nowhere/at%20all")

    detail = "nothing is served at /nowhere/at all"
    assert reply.json() == document(404, "unknown_route", detail)


@pytest.mark.parametrize("path", ["/who/", "/sub/x/", "/sub"], ids=["own", "mounted", "mount"])
async def test_a_slash_more_or_less_is_another_path_and_no_redirect(path):
    assert (await answer("GET", path)).status_code == 404


@pytest.mark.parametrize(
    ("path", "allow"),
    [("/thing", "DELETE, GET, HEAD"), ("/sub/x", "GET, HEAD, PUT"), ("/body", "POST")],
    ids=["two routes", "mounted", "one route"],
)
async def test_a_wrong_method_is_told_every_right_one(path, allow):
    reply = await answer("PATCH", path)

    assert reply.json() == document(405, "method_not_allowed", f"{path} takes {allow}, not PATCH")
    assert reply.headers["Allow"] == allow


async def test_an_error_of_ours_is_told_as_it_is():
    reply = await answer("GET", "/raising", scope={"test.error": UnknownSession("no session a")})

    assert reply.json() == document(404, "unknown_session", "no session a")


async def test_an_error_from_elsewhere_keeps_its_status():
    error = OrbitError.from_reply(418, "of_a_plugin", "short and stout")

    reply = await answer("GET", "/raising", scope={"test.error": error})

    assert reply.json() == document(418, "bad_request", "short and stout")


@pytest.mark.parametrize(
    ("status", "code"), [(403, "forbidden"), (418, "bad_request"), (599, "internal_error")]
)
async def test_an_http_exception_gets_the_document_too(status, code):
    error = HTTPException(status, "said so", {"X-More": "1"})

    reply = await answer("GET", "/raising", scope={"test.error": error})

    assert reply.json() == document(status, code, "said so")
    assert reply.headers["X-More"] == "1"


@pytest.mark.parametrize(
    "error", [KeyError("secret"), RecursionError("secret")], ids=["key", "recursion"]
)
async def test_a_bug_is_logged_once_and_its_text_kept_back(error, caplog):
    reply = await answer("GET", "/raising", scope={"test.error": error})

    detail = "the handler failed; the log of its host has the traceback"
    assert reply.json() == document(500, "internal_error", detail)
    assert [record.getMessage() for record in caplog.records] == ["GET /raising failed"]
    assert "secret" in caplog.text


@pytest.mark.parametrize("status", [0, 150, 999])
@pytest.mark.parametrize("kind", ["http", "orbit"])
async def test_an_error_with_a_status_that_is_none_is_a_bug(kind, status, caplog):
    error: Any = OrbitError("x") if kind == "orbit" else HTTPException(200, "x")
    error.status_code = status

    reply = await answer("GET", "/raising", scope={"test.error": error})

    detail = "the handler failed; the log of its host has the traceback"
    assert reply.json() == document(500, "internal_error", detail)
    assert [record.getMessage() for record in caplog.records] == ["GET /raising failed"]


async def test_a_reply_that_breaks_off_is_cut():
    with pytest.raises(ResponseAborted):
        await answer("GET", "/breaking", scope={"test.error": Conflict("too late")})


async def test_a_client_that_goes_away_is_no_error(caplog):
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await SITE(_scope("POST", "/body"), receive, send)

    assert sent == []
    assert [record.levelname for record in caplog.records] == []


def _scope(method: str, path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [],
        "query_string": b"",
        "root_path": "",
    }


@pytest.mark.parametrize(("seconds", "header"), [(0.2, "1"), (1.0, "1"), (1.2, "2"), (59.5, "60")])
async def test_a_wait_is_told_in_whole_seconds_and_never_too_short(seconds, header):
    reply = error_reply(TooManyRequests("wait", retry_after=seconds))

    assert reply.headers["Retry-After"] == header


async def test_an_error_without_a_time_tells_none():
    assert "Retry-After" not in error_reply(Unavailable("later")).headers


async def test_an_error_reply_carries_what_else_it_is_given():
    assert error_reply(Unauthorized("who?"), {"X-More": "1"}).headers["X-More"] == "1"


async def test_a_reply_refuses_what_json_has_not():
    with pytest.raises(ValueError, match="Out of range float values"):
        Reply({"a": float("nan")})


@given(text=st.text(st.characters(), max_size=20))
def test_any_text_comes_through_a_reply(text):
    assert json.loads(bytes(Reply([text]).body)) == [text]


async def test_a_lone_surrogate_comes_through_an_error():
    reply = await answer("GET", "/raising", scope={"test.error": OrbitError("a \ud800 b")})

    assert (reply.status_code, reply.json()["detail"]) == (500, "a \ud800 b")
