import json

import anyio
import httpx
import pytest

from orbit_core.testing import ALICE, open_deployment

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
    async with httpx.AsyncClient(base_url=deployment.url, headers=headers) as client:
        yield client


def answer(**wanted):
    """Return the request that makes the endpoint answer so."""
    return {"url": "/node/rude/answer", "content": json.dumps(wanted)}


async def bytes_of(deployment, method="POST", **wanted):
    """Return all that the bridge sends for one such request."""
    body = json.dumps(wanted)
    head = (
        f"{method} /node/rude/answer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
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
        {"status": 101},
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
