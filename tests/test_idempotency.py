from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orbit_core._idempotency import KEPT, SWEEP_INTERVAL, Idempotency
from orbit_core._store import Space, open_store
from orbit_core.errors import Conflict
from orbit_core.models import Principal, Role
from orbit_core.web import Reply, Site
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]

ALICE, BOB = Principal("alice", Role.CLIENT), Principal("bob", Role.CLIENT)
DAY = KEPT + 1


class Counter:
    """Count the calls of a submitting route whose handler a test may replace."""

    def __init__(self, documents: Space) -> None:
        self.calls = 0
        self.now = 1_000_000.0
        self.handler: Callable[[], Awaitable[Response]] = self.count
        self.idempotency = Idempotency(documents)
        self.idempotency._clock = lambda: self.now
        self.site = Site.of(
            [Route(path, self.submit, methods=["POST"]) for path in ("/submit", "/other")]
        )

    async def submit(self, request: Request) -> Response:
        return await self.idempotency.answer(request, self.handle)

    async def handle(self, request: Request) -> Response:
        self.calls += 1
        return await self.handler()

    async def count(self) -> Response:
        return Reply({"call": self.calls}, status_code=202)

    async def refuse(self) -> Response:
        raise Conflict("not now")

    async def answer_refusal(self) -> Response:
        return Reply({"no": True}, status_code=503)

    async def post(
        self,
        key: str | None = "k",
        *,
        path: str = "/submit",
        body: bytes = b"{}",
        principal: Principal = ALICE,
    ) -> httpx.Response:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await self.site({**scope, "orbit.principal": principal}, receive, send)

        headers = {} if key is None else {"Idempotency-Key": key}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
            return await http.post(f"http://plugin{path}", content=body, headers=headers)


@pytest.fixture
async def counter(tmp_path: Path) -> AsyncIterator[Counter]:
    async with open_store(tmp_path) as store:
        yield Counter(store.space("replies"))


async def test_a_repeated_request_is_answered_with_the_first_reply(counter):
    first, second = await counter.post(), await counter.post()

    assert counter.calls == 1
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert second.headers["content-type"] == first.headers["content-type"]
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"


async def test_a_reply_outlives_a_restart(tmp_path):
    for _ in range(2):
        async with open_store(tmp_path) as store:
            counter = Counter(store.space("replies"))
            reply = await counter.post()

    assert (counter.calls, reply.json()) == (0, {"call": 1})


@pytest.mark.parametrize(
    "other",
    [{"key": "other"}, {"path": "/other"}, {"principal": BOB}, {"key": None}],
    ids=["another key", "another route", "another owner", "no key"],
)
async def test_another_request_is_carried_out(counter, other):
    await counter.post()

    assert (await counter.post(**other)).json() == {"call": 2}


@pytest.mark.parametrize(
    "other", [{"body": b'{"a":1}'}, {"path": "/submit?a=1"}], ids=["body", "query"]
)
async def test_a_key_used_for_something_else_is_refused(counter, other):
    await counter.post()

    reply = await counter.post(**other)

    assert reply.json() == {
        "error": True,
        "status_code": 422,
        "detail": "this Idempotency-Key was used with another body or query: use a new key",
        "code": "idempotency_mismatch",
    }


@pytest.mark.parametrize("key", ["", "k" * 256], ids=["empty", "too long"])
async def test_a_key_of_the_wrong_length_is_refused(counter, key):
    reply = await counter.post(key)

    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")
    assert reply.json()["detail"] == (
        f"Idempotency-Key must have 1 to 255 characters, not {len(key)}"
    )
    assert counter.calls == 0


async def test_a_key_whose_request_still_runs_is_refused_for_now(counter):
    go = anyio.Event()

    async def slow() -> Response:
        await go.wait()
        return Reply({})

    counter.handler = slow
    async with anyio.create_task_group() as group:
        group.start_soon(counter.post)
        await until(lambda: counter.calls == 1)
        reply = await counter.post()
        go.set()

    assert (reply.status_code, reply.json()["code"]) == (409, "request_in_flight")
    assert reply.json()["detail"] == "a request with Idempotency-Key k is still running"
    assert reply.headers["Retry-After"] == "1"


@pytest.mark.parametrize(("how", "status"), [("refuse", 409), ("answer_refusal", 503)])
async def test_a_refusal_is_not_kept(counter, how, status):
    counter.handler = getattr(counter, how)
    refused = await counter.post()
    counter.handler = counter.count

    again = await counter.post()

    assert (refused.status_code, again.json()) == (status, {"call": 2})


async def test_a_cancelled_request_can_be_repeated(counter):
    counter.handler = anyio.sleep_forever
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(counter.post)
            await until(lambda: counter.calls == 1)
            scope.cancel()
    counter.handler = counter.count

    assert (await counter.post()).json() == {"call": 2}


async def test_a_reply_is_forgotten_after_a_day(counter):
    await counter.post()
    counter.now += DAY

    assert (await counter.post()).json() == {"call": 2}


async def test_a_sweep_deletes_old_replies_only(counter, tmp_path):
    await counter.post("old")
    counter.now += DAY
    await counter.post("new")

    await counter.idempotency.sweep()

    kept = await counter.idempotency._documents.items()
    assert [slot.rpartition("\n")[2] for slot in kept] == ["new"]


async def test_sweeps_look_at_the_disk_once_an_hour(counter):
    await counter.idempotency.sweep()
    await counter.post()
    for seconds, left in ((SWEEP_INTERVAL - 1, 1), (DAY, 0)):
        counter.now += seconds
        await counter.idempotency.sweep()

        assert len(await counter.idempotency._documents.items()) == left


async def test_a_reply_that_cannot_be_kept_is_an_error(counter):
    await counter.idempotency._documents.store.execute(
        lambda connection: connection.execute("PRAGMA max_page_count = 1")
    )

    async def large() -> Response:
        return Reply("x" * 100_000)

    counter.handler = large
    reply = await counter.post()

    assert (reply.status_code, reply.json()["code"]) == (507, "state_unavailable")
    assert "database or disk is full" in reply.json()["detail"]


async def test_a_strange_host_header_does_no_harm(counter):
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/submit",
        "query_string": b"",
        "headers": [(b"host", b"["), (b"idempotency-key", b"k")],
        "orbit.principal": ALICE,
        "orbit.body": b"",
    }

    response = await counter.submit(Request(scope))

    assert response.status_code == 202
