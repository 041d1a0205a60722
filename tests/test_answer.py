import json

import anyio
import httpx
import pytest

from orbit_core._frames import Kind, pack_value
from orbit_core.testing import ALICE, open_deployment
from tests.asking import fault
from tests.joining import joined_by_hand
from tests.waiting import until

pytestmark = pytest.mark.anyio

RUDE = "rude=tests.rude_plugin"
FORGED = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged"
LENGTH = str(len(FORGED))


@pytest.fixture
async def deployment(tmp_path):
    async with open_deployment(tmp_path, plugins={"node": [RUDE]}) as found:
        yield found


@pytest.fixture
async def http(deployment):
    headers = {"Authorization": f"Bearer {await deployment.token(ALICE)}"}
    async with httpx.AsyncClient(base_url=deployment.url, headers=headers, verify=False) as client:
        yield client


def answer(**wanted):
    """Return the request that makes the endpoint answer so."""
    return {"url": "/node/rude/answer", "content": json.dumps(wanted)}


async def bytes_of(deployment, method="POST", host="Host", **wanted):
    """Return all that the bridge sends for one such request."""
    body = json.dumps(wanted)
    head = (
        f"{method} /node/rude/answer HTTP/1.1\r\n{host}: x\r\nConnection: close\r\n"
        f"Authorization: Bearer {await deployment.token(ALICE)}\r\nContent-Length: {len(body)}\r\n"
    )
    port = int(deployment.url.rpartition(":")[2])
    found = b""
    with anyio.fail_after(10):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(f"{head}\r\n{body}".encode())
            try:
                async for chunk in stream:
                    found += chunk
            except anyio.BrokenResourceError:
                pass
    return found


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_cannot_carry_the_next_answer(deployment, status):
    wanted = {"status": status, "headers": [("Content-Length", LENGTH)], "parts": [FORGED]}
    found = await bytes_of(deployment, **wanted)
    assert found.startswith(f"HTTP/1.1 {status} ".encode())
    assert found.endswith(b"\r\n\r\n")
    assert found.count(b"HTTP/1.1") == 1
    assert b"content-length" not in found.lower()


async def test_an_answer_to_head_has_its_length_and_no_body(deployment):
    wanted = {"headers": [("Content-Length", LENGTH)], "parts": [FORGED]}
    found = await bytes_of(deployment, "HEAD", **wanted)
    assert found.count(b"HTTP/1.1") == 1
    assert f"content-length: {LENGTH}".encode() in found.lower()


@pytest.mark.parametrize(
    "lengths",
    [("0", LENGTH), (LENGTH, "0"), (LENGTH, LENGTH), ("+1",), ("",), ("x",), ("1" * 5000,)],
    ids=lambda lengths: ",".join(lengths)[:20],
)
async def test_a_length_that_is_doubtful_is_refused(http, lengths):
    headers = [("Content-Length" if i else "content-length", v) for i, v in enumerate(lengths)]
    reply = await http.post(**answer(headers=headers, parts=[FORGED]))
    assert reply.status_code == 502
    assert reply.json()["detail"] == "the endpoint's answer has an invalid length"


@pytest.mark.parametrize(
    ("length", "parts"), [("3", ["12", "34"]), ("5", ["12", "34"])], ids=["more", "less"]
)
async def test_an_answer_that_is_not_as_long_as_it_says_is_cut(http, length, parts):
    with pytest.raises(httpx.TransportError):
        await http.post(**answer(headers=[("Content-Length", length)], parts=parts))


@pytest.mark.parametrize("headers", [[("Content-Length", "4")], []], ids=["known", "unknown"])
async def test_an_answer_as_long_as_it_says_comes_whole(http, headers):
    reply = await http.post(**answer(headers=headers, parts=["12", "34"]))
    assert (reply.status_code, reply.text) == (200, "1234")


@pytest.mark.parametrize(
    "wanted",
    [
        {"headers": [("", "x")]},
        {"headers": [("a b", "x")]},
        {"headers": [("a", "b\r\nc: d")]},
    ],
    ids=str,
)
async def test_an_answer_that_is_no_http_is_refused(http, wanted):
    reply = await http.post(**answer(**wanted))
    assert reply.status_code == 502
    assert reply.json()["detail"] == "the endpoint's answer has an invalid head"


@pytest.mark.parametrize("status", [0, -1, 101, 600, 999, 2**70, "200", None, True], ids=repr)
async def test_a_status_that_is_none_fails_its_own_call_alone(deployment, http, caplog, status):
    member = deployment.bridge.registry.get("node")
    async with anyio.create_task_group() as group:
        group.start_soon(_hang, http)
        await until(lambda: len(member.link.streams) == 1)
        reply = await http.post(**answer(status=status))
        assert fault(reply) == (
            500,
            "internal_error",
            "the handler failed; the log of its host has the traceback",
        )
        assert len(member.link.streams) == 1
        group.cancel_scope.cancel()
    assert f"{status!r} is no status: an answer has one of 200 to 599" in caplog.text


async def _hang(http):
    await http.get("/node/rude/hang")


async def test_an_endpoint_whose_link_says_an_early_status_is_refused(deployment, http):
    """A peer that is no ORBIT endpoint may say what a handler here cannot."""
    async with joined_by_hand(deployment, answering(150)) as link:
        link.send(Kind.HELLO, 0, pack_value({}))
        await until(lambda: "other" in deployment.bridge.registry.topology())
        reply = await http.get("/other/x")
    assert fault(reply) == (502, "internal_error", "the endpoint's answer has an invalid head")


def answering(status):
    """Return an application that answers with a status."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body"})

    return app


@pytest.mark.parametrize(
    "location",
    [
        "/bridge/terminate",
        "/other/psij/submit",
        "/",
        "/nodes",
        "../../bridge/terminate",
        "../..",
        "/node/../bridge/terminate",
        "/node/%2e%2E/bridge/terminate",
        "/node/..%2fbridge/terminate",
        "/node\\..\\..\\bridge/terminate",
        "../../bridge//../node",
        "http://127.0.0.1:{port}/bridge/terminate",
        "HTTP://127.0.0.1.:{port}/bridge/terminate",
        "http://2130706433:{port}/bridge/terminate",
        "http://0x7f.1:{port}/bridge/terminate",
        "//127.0.0.1:{port}/bridge/terminate",
        "http://x@127.0.0.1:{port}/bridge/terminate",
        "http://%31%32%37.0.0.1:{port}/bridge/terminate",
        "http:/bridge/terminate",
        "http:///bridge/terminate",
        "http:",
        "https:bridge/terminate",
        "javascript:alert(1)",
        "\\\\evil.example",
        "/node /../../bridge",
        "/node/\t/bridge",
        "/node?\xe9",
    ],
)
async def test_a_redirection_to_elsewhere_on_the_bridge_is_refused(deployment, http, location):
    place = location.format(port=deployment.url.rpartition(":")[2])
    for headers in ([("Location", place)], [("location", "ok"), ("LOCATION", place)]):
        reply = await http.post(**answer(status=307, headers=headers))
        assert reply.status_code == 502
        assert "not the endpoint's" in reply.json()["detail"]
        assert "location" not in reply.headers


@pytest.mark.parametrize(
    "location",
    [
        "/node/rude/other?next=/bridge/terminate#/../x",
        "/node",
        "other",
        "./",
        "../rude/other",
        "?page=2",
        "#top",
        "",
        "http://127.0.0.1/node/rude",
        "//127.0.0.1/node/rude",
        "https://elsewhere.example/bridge/terminate",
        "//elsewhere.example",
        "http://192.0.2.1:80/x",
        "http://[2001:db8::1]:80/x",
    ],
)
async def test_a_redirection_at_the_endpoint_or_to_another_host_is_passed_on(http, location):
    reply = await http.post(**answer(status=307, headers=[("Location", location)]))
    assert (reply.status_code, reply.headers["location"]) == (307, location)


async def test_a_redirection_is_refused_where_the_bridges_host_is_unknown(deployment):
    wanted = {"status": 302, "headers": [("Location", "https://elsewhere.example/x")]}
    found = await bytes_of(deployment, host="Not-Host", **wanted)
    assert found.startswith(b"HTTP/1.1 502 ")


async def test_the_place_of_what_was_made_is_passed_on(http):
    reply = await http.post(**answer(status=201, headers=[("Location", "/jobs/7")]))
    assert (reply.status_code, reply.headers["location"]) == (201, "/jobs/7")


@pytest.mark.parametrize(
    "name",
    [
        "Access-Control-Allow-Origin", "Alt-Svc", "Clear-Site-Data", "NEL", "Refresh",
        "Report-To", "Reporting-Endpoints", "Service-Worker-Allowed", "Strict-Transport-Security",
    ],
)  # fmt: skip
async def test_an_endpoint_says_nothing_for_all_of_the_bridges_origin(http, name):
    reply = await http.post(**answer(headers=[(name, "x"), ("X-Other", "kept")]))
    assert (reply.status_code, reply.headers["x-other"]) == (200, "kept")
    assert name not in reply.headers
