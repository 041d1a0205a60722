import re
from http import HTTPStatus

import pytest

from orbit_core._checked_send import CheckedSend

pytestmark = pytest.mark.anyio

START = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
PART = {"type": "http.response.body", "body": b"x", "more_body": True}
END = {"type": "http.response.body"}


async def passed(*messages):
    """Send messages and return what is passed on."""
    found = []

    async def send(message):
        found.append(message)

    checked = CheckedSend(send)
    for message in messages:
        await checked(message)
    return found


async def test_an_answer_is_passed_on_as_it_is():
    assert await passed(START, PART, PART, END) == [START, PART, PART, END]


async def test_a_status_may_be_a_name_and_headers_any_pairs():
    start = {**START, "status": HTTPStatus.CREATED, "headers": [[b"a", b"b"]]}

    assert await passed(start, END) == [start, END]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_a_body_of_any_bytes_is_passed_on_as_bytes(kind):
    *_, body = await passed(START, {**END, "body": kind(b"x")})

    assert type(body["body"]) is bytes
    assert body["body"] == b"x"


@pytest.mark.parametrize("body", ["text", 5, None, [b"x"]], ids=repr)
async def test_a_body_that_is_no_bytes_is_refused(body):
    with pytest.raises(ValueError, match=f"^a body is bytes, not a {type(body).__name__}$"):
        await passed(START, {**END, "body": body})


@pytest.mark.parametrize("header", [("a", b"b"), (b"a", "b"), (b"a", None)], ids=repr)
async def test_a_header_that_is_no_bytes_is_refused(header):
    with pytest.raises(ValueError, match=r"is no pair of byte strings$"):
        await passed({**START, "headers": [header]})


@pytest.mark.parametrize(
    "messages",
    [(PART,), (START, START), (START, END, PART), (START, END, END), (START, END, START)],
    ids=["body first", "two heads", "part past the end", "two ends", "head past the end"],
)
async def test_what_comes_out_of_turn_is_refused(messages):
    kind = re.escape(repr(messages[-1]["type"]))
    with pytest.raises(ValueError, match=f"^{kind} has no place here in an answer$"):
        await passed(*messages)


async def test_what_is_no_part_of_an_answer_is_refused():
    with pytest.raises(ValueError, match=r"^'http\.response\.trailers' has no place here"):
        await passed(START, {"type": "http.response.trailers", "headers": []})
