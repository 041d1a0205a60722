import socket
from urllib.parse import urlsplit

import anyio
import httpx
import pytest

from orbit_core.config import BridgeConfig
from orbit_core.errors import BodyTooLarge, EndpointLost, UnknownEndpoint
from orbit_core.testing import ADMIN, ALICE, BOB, open_deployment
from tests.asking import fault, fault_code, opened
from tests.probe_plugin import PART, PROBE, probe_of
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def bridge_settings():
    return {"grace": 0.5, "max_body": 8 * 1024 * 1024}


@pytest.fixture
async def http(deployment):
    async with opened(deployment, await deployment.token()) as client:
        yield client


async def raw(deployment, head, more=b"\r\n"):
    """Send bytes as they are and return all that comes until the bridge closes."""
    parts = urlsplit(deployment.url)
    token = await deployment.token()
    with anyio.fail_after(10):
        async with await anyio.connect_tcp(parts.hostname, parts.port) as stream:
            extra = f"\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"
            await stream.send(head + extra.encode() + more)
            answer = b""
            async for chunk in stream:
                answer += chunk
            return answer


async def stalled(deployment, head):
    """Return a plain socket on which a request was begun."""
    parts = urlsplit(deployment.url)
    token = await deployment.token()
    client = socket.create_connection((parts.hostname, parts.port))
    client.sendall(head + f"Host: x\r\nAuthorization: Bearer {token}\r\n".encode())
    return client


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_a_request_reaches_the_plugin_with_method_query_and_body(http, method):
    reply = await http.request(method, "/node/probe/echo?a=1&b=%20", content=b"body")
    found = reply.json()
    assert (found["method"], found["query"], found["body"]) == (method, "a=1&b=%20", "body")
    assert (found["owner"], found["role"], found["endpoint"]) == (ALICE.owner, "client", None)


async def test_a_percent_encoded_path_parameter_arrives_decoded(http):
    reply = await http.get("/node/probe/item/a%20b%C3%A9")
    assert reply.json() == {"item": "a bé"}


@pytest.mark.parametrize(
    ("path", "code"),
    [
        pytest.param("/nobody/probe/echo", "unknown_endpoint", id="unknown endpoint"),
        pytest.param("/nobody", "unknown_endpoint", id="unknown endpoint alone"),
        pytest.param("/node/nothing/echo", "unknown_route", id="unknown plugin"),
        pytest.param("/node/probe/nothing", "unknown_route", id="unknown route"),
        pytest.param("/node", "unknown_route", id="endpoint alone"),
        pytest.param("/node/", "unknown_route", id="endpoint and slash"),
        pytest.param("/events/x", "unknown_route", id="reserved name"),
        pytest.param("/%6eode/probe/echo", "unknown_endpoint", id="encoded name"),
        pytest.param("/node%2Fprobe/echo", "unknown_endpoint", id="encoded slash"),
    ],
)
async def test_an_unknown_place_is_refused_with_its_code(http, path, code):
    assert fault_code(await http.get(path)) == (404, code)


@pytest.mark.parametrize(
    "target",
    [b"/../x", b"//x", b"/..%2fx", b"/./node", b"/%00"],
    ids=["dots", "empty", "encoded dots", "dot", "nul"],
)
async def test_a_name_that_is_none_is_an_unknown_endpoint(deployment, target):
    answer = await raw(deployment, b"GET " + target + b" HTTP/1.1")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"code":"unknown_endpoint"' in answer


@pytest.mark.parametrize("target", [b"*", b"/node\xff/x"], ids=["asterisk", "not ascii"])
async def test_a_target_that_is_no_path_is_refused(deployment, target):
    answer = await raw(deployment, b"OPTIONS " + target + b" HTTP/1.1")
    assert answer.split(b" ")[1] in (b"400", b"404")


async def test_a_wrong_method_is_refused_and_told_which_are_allowed(http):
    reply = await http.post("/node/probe/source")
    assert fault_code(reply) == (405, "method_not_allowed")
    assert set(reply.headers["Allow"].split(", ")) == {"GET", "HEAD"}


async def test_a_body_over_the_limit_is_refused_by_its_length(deployment):
    head = b"POST /node/probe/sink HTTP/1.1\r\nContent-Length: 8388609"
    answer = await raw(deployment, head)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"body_too_large"' in answer


async def test_a_body_over_the_limit_is_refused_when_its_chunks_pass_it(http):
    async def chunks():
        for _ in range(10):
            yield bytes(1024 * 1024)

    reply = await http.post("/node/probe/sink", content=chunks())
    assert fault_code(reply) == (413, BodyTooLarge.code)


async def test_a_body_over_the_limit_in_one_small_part_is_refused(tmp_path):
    config = BridgeConfig(port=0, plugins=[], max_body=10)
    async with open_deployment(tmp_path, plugins={"node": [PROBE]}, config=config) as deployment:
        body = b"Transfer-Encoding: chunked\r\n\r\nc\r\n012345678901\r\n0\r\n\r\n"
        answer = await raw(deployment, b"POST /node/probe/sink HTTP/1.1", body)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"at most 10 bytes" in answer


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 6 * 1024 * 1024])
async def test_a_body_of_any_size_goes_up_whole(http, size):
    reply = await http.post("/node/probe/sink", content=bytes(size))
    assert reply.json() == {"size": size}


async def test_a_chunked_body_goes_up_whole(http):
    async def chunks():
        for size in (1, 70_000, 3, 2_000_000):
            yield bytes(size)

    reply = await http.post("/node/probe/sink", content=chunks())
    assert reply.json() == {"size": 2_070_004}


async def test_many_big_answers_at_once_all_come_down_whole(http):
    whole = []

    async def fetch():
        reply = await http.get("/node/probe/source?parts=100")
        whole.append(reply.content == PART * 100)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(fetch)
    assert whole == [True] * 12


async def test_many_big_bodies_at_once_all_go_up_whole(http):
    sizes = []

    async def push():
        reply = await http.post("/node/probe/sink", content=bytes(6_000_000))
        sizes.append(reply.json()["size"])

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(push)
    assert sizes == [6_000_000] * 12


async def test_an_answer_before_the_body_was_read_is_passed_on(http):
    reply = await http.post("/node/probe/nothing", content=bytes(6_000_000))
    assert fault_code(reply) == (404, "unknown_route")


async def test_headers_of_the_connection_and_the_token_stay_at_the_bridge(http):
    headers = {
        "Orbit-Timeout": "30",
        "TE": "trailers",
        "Cookie": "mine=1; orbit_session=secret",
        "X-Mine": "kept",
    }
    found = (await http.get("/node/probe/echo", headers=headers)).json()["headers"]
    assert found["x-mine"] == "kept"
    assert found["cookie"] == "mine=1"
    assert not {"authorization", "te", "connection", "orbit-timeout"} & set(found)


async def test_a_cookie_of_the_bridge_alone_is_not_forwarded(http):
    headers = {"Cookie": "orbit_session=secret"}
    found = (await http.get("/node/probe/echo", headers=headers)).json()["headers"]
    assert "cookie" not in found


async def test_an_endpoint_sets_no_cookie_and_runs_no_script_on_the_bridge(http):
    reply = await http.get("/node/probe/cookie")
    assert "set-cookie" not in reply.headers
    assert reply.headers["content-security-policy"] == "sandbox"
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_a_head_request_has_the_head_and_no_body(http):
    reply = await http.head("/node/probe/source?parts=1")
    assert (reply.status_code, reply.content) == (200, b"")


@pytest.mark.parametrize("text", ["nonsense", "0", "-1", "nan", "86401"])
async def test_a_deadline_that_is_none_is_refused(http, text):
    reply = await http.get("/node/probe/echo", headers={"Orbit-Timeout": text})
    assert fault_code(reply) == (400, "bad_request")


async def test_a_call_past_its_deadline_ends_typed_and_cancels_its_handler(deployment, http):
    reply = await http.get("/node/probe/hang", headers={"Orbit-Timeout": "0.1"})
    assert fault_code(reply) == (504, "deadline_exceeded")
    await until(lambda: probe_of(deployment.endpoints["node"]).cancelled == 1)


async def test_the_deadline_of_a_call_that_names_none_is_a_setting(tmp_path):
    config = BridgeConfig(port=0, plugins=[], call_timeout=0.2)
    async with (
        open_deployment(tmp_path, plugins={"node": [PROBE]}, config=config) as deployment,
        opened(deployment, await deployment.token()) as http,
    ):
        assert fault(await http.get("/node/probe/hang")) == (
            504,
            "deadline_exceeded",
            "endpoint node gave no sign of an answer within 0.2 s",
        )


@pytest.mark.parametrize("route", ["hang", "trickle"])
async def test_a_client_that_leaves_cancels_the_handler(deployment, http, route):
    async with anyio.create_task_group() as group:
        group.start_soon(http.get, f"/node/probe/{route}")
        await until(lambda: probe_of(deployment.endpoints["node"]).entered == 1)
        group.cancel_scope.cancel()
    await until(lambda: probe_of(deployment.endpoints["node"]).cancelled == 1)
    assert not deployment.bridge.registry.get("node").link.streams


async def test_a_client_that_leaves_amid_its_body_ends_the_call(deployment):
    link = deployment.bridge.registry.get("node").link
    with await stalled(deployment, b"POST /node/probe/sink HTTP/1.1\r\n") as client:
        client.sendall(b"Content-Length: 100\r\n\r\nhalf")
        await until(lambda: link.streams)
    await until(lambda: not link.streams)


async def test_calls_end_typed_when_their_endpoint_is_lost(deployment, http):
    replies = []

    async def call():
        replies.append(await http.get("/node/probe/hang"))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await until(lambda: probe_of(deployment.endpoints["node"]).entered == 1)
        deployment.endpoints["node"].stopped.set()
        deployment.endpoints["node"].link.cut()
    assert fault_code(replies[0]) == (504, EndpointLost.code)
    assert fault_code(await http.get("/node/probe/echo")) == (404, UnknownEndpoint.code)


async def test_an_answer_that_breaks_off_does_not_look_complete(http):
    with pytest.raises(httpx.TransportError):
        await http.get("/node/probe/break")


async def test_an_answer_with_a_header_that_is_none_becomes_an_error(http):
    reply = await http.get("/node/probe/bad_header")
    assert fault_code(reply)[0] == 502
    assert (await http.get("/node/probe/echo")).status_code == 200


async def test_a_client_that_takes_nothing_holds_up_nobody_else(deployment):
    link = deployment.bridge.registry.get("node").link
    with await stalled(deployment, b"GET /node/probe/source?parts=2000 HTTP/1.1\r\n") as client:
        client.sendall(b"\r\n")
        await until(lambda: link.streams)
        async with deployment.client() as other:
            for _ in range(20):
                assert await other.request("GET", "/node/probe/echo")
        assert [stream.at_end for stream in link.streams.values()] == [False]
    await until(lambda: not link.streams)


async def test_an_endpoint_takes_calls_of_its_owner_and_of_administrators_alone(deployment):
    async with opened(deployment, await deployment.token(BOB)) as client:
        refused = await client.get("/node/probe/echo")
        assert "node" in (await client.post("/endpoint/list")).json()["data"]["endpoints"]
    async with opened(deployment, await deployment.token(ADMIN)) as client:
        assert (await client.get("/node/probe/echo")).json()["owner"] == "root"
    assert fault(refused) == (
        403,
        "forbidden",
        "endpoint node takes calls of its owner alone: ask to have it started with --shared, "
        "or use an endpoint of your own",
    )


async def test_a_shared_endpoint_takes_everybodys_calls(tmp_path):
    async with (
        open_deployment(tmp_path, plugins={"node": [PROBE]}, shared=True) as deployment,
        opened(deployment, await deployment.token(BOB)) as client,
    ):
        assert (await client.get("/node/probe/echo")).json()["owner"] == "bob"
