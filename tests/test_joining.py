import asyncio
from types import SimpleNamespace

import anyio
import pytest
from websockets.exceptions import InvalidStatus

from orbit_core import _register
from orbit_core._codec import to_data
from orbit_core._dial import FIRST_WAIT, LONGEST_ASKED, Credentials, dial, pause, refusal
from orbit_core._frames import Kind, pack_value, unpack_map
from orbit_core._hello import Hello
from orbit_core._link import Link
from orbit_core._rates import RateLimit
from orbit_core._register import ADMISSION_BURST, ADMISSIONS
from orbit_core.config import Access
from orbit_core.errors import OrbitError
from orbit_core.testing import ADMIN
from tests.asking import opened
from tests.joining import endpoint_token, handshake, joined_by_hand, refused
from tests.waiting import until

pytestmark = pytest.mark.anyio


def standing_still(rate, burst=0.0):
    """Return a limit for which no time passes."""
    found = RateLimit(rate, burst)
    found._clock = lambda: 1000.0
    return found


@pytest.fixture
def registrar(deployment):
    return deployment.bridge._registrar


async def test_endpoints_that_come_at_once_are_let_in_one_after_the_other(deployment, registrar):
    registrar._admissions = standing_still(100)
    token = await endpoint_token(deployment)
    joined = []

    async def join(number):
        async with handshake(deployment, token, orbit_endpoint=f"n{number}"):
            joined.append(number)
            await until(lambda: len(joined) == 20)

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(join, number)
    assert sorted(joined) == list(range(20))


async def test_an_endpoint_that_would_wait_too_long_is_told_when_to_come_back(
    deployment, registrar
):
    registrar._admissions = standing_still(0.1)
    token = await endpoint_token(deployment)
    async with handshake(deployment, token, orbit_endpoint="first"):
        assert await refused(deployment, token) == (503, "unavailable")
    with pytest.raises(InvalidStatus) as told:
        async with handshake(deployment, token):
            pass
    error = refusal(told.value, deployment.url)
    assert (error.status_code, error.retry_after) == (503, 10.0)
    assert error.detail.endswith("very many endpoints are joining: wait")


async def test_an_endpoint_that_comes_and_goes_is_slowed_and_no_other_is(deployment, registrar):
    registrar._joins = standing_still(0.1, 20)
    token = await endpoint_token(deployment)
    again = {}
    for _ in range(3):
        async with handshake(deployment, token, **again) as joined:
            again = {"orbit_resume_key": joined.response.headers["orbit-resume-key"]}
    assert await refused(deployment, token, **again) == (429, "too_many_requests")
    async with handshake(deployment, token, orbit_endpoint="steady"):
        pass


async def ask_to_join(registrar, token, while_waiting):
    """Join without a network; return the statuses sent. ``while_waiting`` is what comes next."""
    headers = {
        "orbit-endpoint": "other",
        "orbit-process": "p1",
        "orbit-link-version": "1",
        "authorization": f"Bearer {token}",
    }
    scope = {
        "type": "websocket",
        "path": "/register",
        "client": ("127.0.0.1", 1),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "orbit.socket": SimpleNamespace(),
    }
    answers = iter((None, while_waiting))
    sent = []

    async def receive():
        answer = next(answers)
        return await answer() if answer else {"type": "websocket.connect"}

    async def send(message):
        sent.append(message.get("status"))

    with anyio.fail_after(10):
        await registrar(scope, receive, send)
    return sent


async def test_who_leaves_while_it_waits_is_not_let_in(deployment, registrar):
    registrar._admissions = standing_still(1)
    registrar._admissions.take("")

    async def leave():
        return {"type": "websocket.disconnect"}

    token = await endpoint_token(deployment)
    assert await ask_to_join(registrar, token, leave) == [503, None]
    assert [member.name for member in deployment.bridge.registry.members] == ["node"]


async def test_who_leaves_while_it_waits_is_no_error_of_the_server(deployment, registrar, caplog):
    registrar._admissions = standing_still(1)
    registrar._admissions.take("")
    token = await endpoint_token(deployment)
    waiting = []
    find_turn = registrar._turn
    registrar._turn = lambda applicant: waiting.append(applicant.name) or find_turn(applicant)
    async with anyio.create_task_group() as group:

        async def join():
            async with handshake(deployment, token):
                pass

        group.start_soon(join)
        await until(lambda: waiting)
        group.cancel_scope.cancel()
    await until(lambda: not handshakes())
    assert waiting == ["other"]
    assert "Exception in ASGI application" not in caplog.text


def handshakes():
    """Return the tasks that serve a WebSocket, besides those of `node`'s link."""
    return [task for task in asyncio.all_tasks() if "SocketProtocol.run_asgi" in repr(task)][1:]


async def test_a_token_that_is_revoked_while_its_endpoint_waits_lets_nobody_in(
    deployment, registrar
):
    registrar._admissions = standing_still(10)
    registrar._admissions.take("")
    text = await endpoint_token(deployment)
    token = deployment.bridge.tokens.find(text)

    async def revoked():
        with anyio.CancelScope(shield=True):
            await deployment.bridge.tokens.revoke(token.id)
        await anyio.sleep_forever()

    assert await ask_to_join(registrar, text, revoked) == [401, None]
    assert [member.name for member in deployment.bridge.registry.members] == ["node"]


async def test_a_refusal_is_no_error_of_the_server(deployment, caplog):
    assert await refused(deployment, "orbit_wrong") == (401, "unauthorized")
    assert "completing handshake" not in caplog.text


@pytest.mark.parametrize(
    ("asked", "expected"), [(0, 0), (3, 3), (3600, LONGEST_ASKED)], ids=["nothing", "some", "much"]
)
def test_an_endpoint_stays_away_as_long_as_asked_and_then_a_random_time(asked, expected):
    pauses = {pause(0, asked) for _ in range(10)}
    assert len(pauses) > 1
    assert all(expected <= seconds <= expected + FIRST_WAIT for seconds in pauses)


async def test_a_refused_endpoint_comes_back_and_is_let_in(
    deployment, registrar, caplog, monkeypatch
):
    monkeypatch.setattr(_register, "PATIENCE", 0.5)
    registrar._admissions = standing_still(1)
    registrar._admissions.take("")
    joined = []

    async def join():
        async with deployment.endpoint("late"):
            joined.append("late")

    async with anyio.create_task_group() as group:
        group.start_soon(join)
        await until(lambda: "very many endpoints are joining" in caplog.text)
        registrar._admissions = RateLimit(ADMISSIONS, ADMISSION_BURST)
    assert joined == ["late"]


CROWD = 300


async def test_a_crowd_that_comes_at_once_is_let_in_and_nobody_else_notices(deployment):
    async with (
        opened(deployment, await deployment.token(ADMIN)) as admin,
        anyio.create_task_group() as group,
    ):
        token = await endpoint_token(deployment)
        await admin.get("/endpoints")  # a new connection in the crowd would have to hurry
        for number in range(CROWD):
            group.start_soon(stay, Access(deployment.url, token), number, group)
        statuses, found = set(), 0
        with anyio.fail_after(60):
            while found <= CROWD:
                reply = await admin.get("/endpoints")
                statuses.add(reply.status_code)
                found = reply.json()["total"]
        group.cancel_scope.cancel()
    assert statuses == {200}


async def stay(access, number, group):
    """Be an endpoint that serves nothing and dials until it is let in."""
    link = Link(None, group, lambda kind, payload: None, first_id=1)
    link.send(Kind.HELLO, 0, pack_value(to_data(Hello())))
    while True:
        try:
            credentials = Credentials(f"node-{number}", f"process-{number}", None, 0)
            async with dial(access, credentials) as (dialed, _):
                await link.run(dialed, 0)
        except OrbitError as error:
            await anyio.sleep(pause(1, error.retry_after or 0))


async def test_who_joins_is_told_the_whole_topology_and_then_what_changes(deployment):
    hello = pack_value(to_data(Hello()))
    heard = []

    def hear(kind, payload):
        heard.append((kind, unpack_map(payload) if payload else {}))

    async with joined_by_hand(deployment, hear=hear) as link:
        link.send(Kind.HELLO, 0, hello)
        await until(lambda: len(heard) == 2)
        async with joined_by_hand(deployment, name="third") as third:
            third.send(Kind.HELLO, 0, hello)
            await until(lambda: "third" in heard[-1][1].get("changed", {}))

    assert [kind for kind, _ in heard[:2]] == [Kind.WELCOME, Kind.TOPOLOGY]
    assert {*heard[1][1]["whole"]} == {"node", "other"}
    assert all("whole" not in told for _, told in heard[2:])
