import anyio
import httpx
import pytest

from orbit_core import _member
from orbit_core._rates import RateLimit
from orbit_core.config import BridgeConfig
from orbit_core.testing import ADMIN, ALICE, BOB, open_deployment
from tests.asking import fault, opened
from tests.probe_plugin import PROBE, probe_of
from tests.waiting import until

pytestmark = pytest.mark.anyio

ONE_IN_A_LONG_TIME = 0.001


@pytest.fixture
def bridge_settings():
    return {"rate_limit": ONE_IN_A_LONG_TIME}


async def speaking_for(principal, deployment):
    return opened(deployment, await deployment.token(principal))


TOO_MANY = (429, "too_many_requests", "you make more than 0.001 requests a second: wait")


async def test_a_caller_over_its_rate_is_told_to_wait_and_nobody_else_is(deployment, caplog):
    async with (
        await speaking_for(ALICE, deployment) as alice,
        await speaking_for(BOB, deployment) as bob,
    ):
        first = await alice.get("/node/probe/echo")
        refused = [await alice.get(path) for path in ("/node/probe/echo", "/endpoints")]
        other = await bob.get("/endpoints")
    assert (first.status_code, other.status_code) == (200, 200)
    assert [fault(reply) for reply in refused] == [TOO_MANY, TOO_MANY]
    assert 998 <= int(refused[0].headers["Retry-After"]) <= 1000
    assert caplog.text.count("alice asks too often: answering 429") == 1


async def test_all_tokens_and_cookies_of_an_owner_share_its_rate(deployment):
    async with await speaking_for(ALICE, deployment) as client:
        await client.post("/auth")
        del client.headers["Authorization"]
        assert fault(await client.get("/auth")) == TOO_MANY


async def test_who_shows_no_token_is_counted_by_address(deployment):
    async with (
        httpx.AsyncClient(base_url=deployment.url) as here,
        httpx.AsyncClient(
            base_url=deployment.url, transport=httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        ) as there,
    ):
        replies = [await here.get("/health"), await here.get("/health"), await there.get("/health")]
    assert [reply.status_code for reply in replies] == [200, 429, 200]


async def test_an_endpoints_own_calls_are_counted_apart_from_its_owners(deployment):
    async with await speaking_for(ALICE, deployment) as alice:
        hub = deployment.endpoints["node"].host.plugins.served["probe"].plugin.context.hub
        replies = [await hub.http.get("/endpoints") for _ in range(2)]
        assert [reply.status_code for reply in replies] == [200, 429]
        assert (await alice.get("/endpoints")).status_code == 200


async def test_a_request_just_over_the_rate_waits_for_its_turn(deployment):
    turns = RateLimit(100, 0)
    turns._clock = lambda: 1000.0
    deployment.bridge._pace._turns = turns
    async with await speaking_for(ADMIN, deployment) as admin:
        replies = [await admin.get("/endpoints") for _ in range(4)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429]


async def test_an_owner_with_many_calls_in_flight_leaves_room_for_others(tmp_path, monkeypatch):
    monkeypatch.setattr(_member, "OWNER_LIMIT", 3)
    async with (
        open_deployment(tmp_path, plugins={"node": [PROBE]}, shared=True) as deployment,
        await speaking_for(ALICE, deployment) as alice,
        await speaking_for(BOB, deployment) as bob,
        anyio.create_task_group() as group,
    ):
        probe = probe_of(deployment.endpoints["node"])
        for _ in range(3):
            group.start_soon(alice.get, "/node/probe/hang")
        await until(lambda: probe.entered == 3)
        refused = await alice.get("/node/probe/echo")
        assert (await bob.get("/node/probe/echo")).status_code == 200
        probe.go.set()
        await until(lambda: not deployment.bridge.registry.get("node").callers)
        assert (await alice.get("/node/probe/echo")).status_code == 200
    detail = "3 calls of yours to node are in flight: wait for some"
    assert fault(refused) == (429, "too_many_requests", detail)
    assert refused.headers["Retry-After"] == "1"


async def test_without_a_limit_nobody_is_refused(tmp_path):
    config = BridgeConfig(port=0, plugins=[], rate_limit=0)
    async with open_deployment(tmp_path, config=config) as deployment:
        deployment.bridge._pace._turns._clock = lambda: 1000.0
        async with await speaking_for(ADMIN, deployment) as admin:
            replies = [await admin.get("/endpoints") for _ in range(20)]
    assert {reply.status_code for reply in replies} == {200}
