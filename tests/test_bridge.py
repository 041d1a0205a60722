from contextlib import AsyncExitStack

import anyio
import attrs
import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from orbit_core import _bridge_routes
from orbit_core._codec import to_data
from orbit_core._frames import Kind, RequestHead, pack_value
from orbit_core._hello import Hello
from orbit_core.config import BridgeConfig
from orbit_core.models import Role
from orbit_core.testing import ADMIN, ALICE, BOB, open_deployment
from tests.asking import fault, fault_code, opened
from tests.joining import endpoint_token, handshake, joined_by_hand, refused
from tests.offering import offer
from tests.probe_plugin import PROBE, probe_of
from tests.test_sessions import pragma
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def bridge_settings():
    return {"grace": 0.3}


@pytest.fixture
async def admin(deployment):
    async with opened(deployment, await deployment.token(ADMIN)) as client:
        yield client


@pytest.fixture
async def anybody(deployment):
    async with opened(deployment) as client:
        yield client


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"orbit_endpoint": None}, (400, "invalid_name"), id="no name"),
        pytest.param({"orbit_endpoint": "../x"}, (400, "invalid_name"), id="path as name"),
        pytest.param({"orbit_endpoint": "events"}, (400, "invalid_name"), id="reserved name"),
        pytest.param({"orbit_endpoint": "bridge"}, (400, "invalid_name"), id="the bridge's name"),
        pytest.param({"orbit_process": "a b"}, (400, "invalid_name"), id="bad process"),
        pytest.param({"orbit_link_version": None}, (400, "bad_request"), id="no version"),
        pytest.param({"orbit_link_version": "0"}, (400, "bad_request"), id="version 0"),
        pytest.param({"orbit_received": "-1"}, (400, "bad_request"), id="negative count"),
        pytest.param({"orbit_received": "9" * 5000}, (400, "bad_request"), id="endless count"),
        pytest.param({"path": "/elsewhere"}, (404, "unknown_route"), id="other place"),
        pytest.param({"orbit_endpoint": "node"}, (409, "name_in_use"), id="name in use"),
        pytest.param(
            {"orbit_endpoint": "node", "orbit_resume_key": "\xe9"},
            (409, "name_in_use"),
            id="resume key that is not ASCII",
        ),
    ],
)
async def test_a_handshake_with_a_fault_is_refused(deployment, changes, expected):
    token = await endpoint_token(deployment)
    assert await refused(deployment, token, **changes) == expected


async def test_a_handshake_without_a_token_is_refused(deployment):
    assert await refused(deployment, None) == (401, "unauthorized")


async def test_a_handshake_with_a_wrong_token_is_refused(deployment):
    assert await refused(deployment, "orbit_wrong") == (401, "unauthorized")


async def test_a_clients_token_lets_no_endpoint_in(deployment):
    token = await deployment.token(ALICE)
    assert await refused(deployment, token) == (403, "forbidden")


async def test_a_token_bound_to_a_name_lets_no_other_name_in(deployment):
    token = await endpoint_token(deployment, name="mine")
    assert await refused(deployment, token) == (403, "forbidden")
    async with handshake(deployment, token, orbit_endpoint="mine") as joined:
        assert joined.response.headers["orbit-resume-key"]


async def test_an_endpoints_token_is_refused_on_the_http_side(deployment):
    async with opened(deployment, await endpoint_token(deployment)) as client:
        assert fault_code(await client.get("/endpoints")) == (403, "forbidden")


@pytest.mark.parametrize("message", ["text", b"short", bytes(8) + b"\x01\x00"], ids=str)
async def test_a_peer_that_speaks_no_link_is_cut(deployment, message):
    token = await endpoint_token(deployment)
    async with handshake(deployment, token) as joined:
        await joined.send(message)
        with anyio.fail_after(5), pytest.raises(ConnectionClosed):
            await joined.recv()


async def test_a_resumption_that_makes_no_sense_is_cut_and_harms_nobody(deployment):
    token = await endpoint_token(deployment)
    async with handshake(deployment, token) as joined:
        key = joined.response.headers["orbit-resume-key"]
    changes = {"orbit_resume_key": key, "orbit_received": "99"}
    async with handshake(deployment, token, **changes) as again:
        with anyio.fail_after(5), pytest.raises(ConnectionClosed):
            await again.recv()
    async with deployment.client() as client:
        assert await client.request("GET", "/node/probe/echo")


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/health", 200), ("/ready", 200), ("/favicon.ico", 404)],
)
async def test_an_open_path_needs_no_token(anybody, path, status):
    assert (await anybody.get(path)).status_code == status


@pytest.mark.parametrize("path", ["/endpoints", "/events", "/metrics", "/plugins", "/node/x", "/x"])
async def test_everything_else_needs_a_token(anybody, path):
    reply = await anybody.get(path)
    assert fault_code(reply) == (401, "unauthorized")
    assert reply.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/endpoints", "/node/probe/echo"])
async def test_what_a_browser_asks_beforehand_needs_a_token_too(anybody, path):
    assert fault_code(await anybody.options(path)) == (401, "unauthorized")


async def test_the_eleventh_wrong_token_in_a_minute_is_told_to_wait(deployment):
    async with opened(deployment, "orbit_wrong") as client:
        replies = [await client.get("/endpoints") for _ in range(11)]
    assert [reply.status_code for reply in replies] == [401] * 10 + [429]
    assert int(replies[-1].headers["Retry-After"]) >= 1


async def test_health_and_readiness_are_told(anybody):
    health = (await anybody.get("/health")).json()
    assert health["status"] == "healthy"
    assert (await anybody.get("/ready")).json() == {"status": "ready"}


async def test_readiness_is_looked_into_once_in_a_while_however_many_ask(
    deployment, anybody, monkeypatch
):
    monkeypatch.setattr(_bridge_routes, "READINESS", 3600.0)
    store = deployment.bridge.host.store
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(anybody.get, "/ready")
    first = await store.space("ready").items()
    await pragma(store, "query_only = 1")
    assert (await anybody.get("/ready")).json() == {"status": "ready"}
    assert await store.space("ready").items() == first


async def test_a_bridge_that_cannot_write_its_state_is_not_ready(deployment, anybody, monkeypatch):
    monkeypatch.setattr(_bridge_routes, "READINESS", 0.0)
    await pragma(deployment.bridge.host.store, "query_only = 1")
    for _ in range(2):
        assert fault_code(await anybody.get("/ready")) == (507, "state_unavailable")
    await pragma(deployment.bridge.host.store, "query_only = 0")
    assert (await anybody.get("/ready")).json() == {"status": "ready"}


async def test_the_home_page_lists_endpoints_to_whom_it_knows(admin, anybody):
    assert "<li>node (present)</li>" in (await admin.get("/")).text
    page = await anybody.get("/")
    assert "1 connected" in page.text
    assert "node" not in page.text
    assert page.headers["content-security-policy"] == "default-src 'self'"


async def test_endpoints_are_listed_with_their_plugins(admin):
    document = (await admin.post("/endpoint/list")).json()["data"]
    assert document["bridge"]["url"].startswith("http://127.0.0.1:")
    node = document["endpoints"]["node"]
    assert node["endpoint"] == {"role": "standalone", "liveness": "present"}
    plugin = node["plugins"]["probe"]
    assert (plugin["type"], plugin["namespace"], plugin["version"]) == (
        "probe", "/node/probe", "1.2",
    )  # fmt: skip
    assert "ui_config" in plugin


async def test_endpoints_are_listed_in_short(admin):
    assert (await admin.get("/endpoints")).json() == {
        "endpoints": [
            {
                "name": "node",
                "role": "standalone",
                "plugins": ["probe"],
                "connected": True,
                "liveness": "present",
                "plugin_count": 1,
            }
        ],
        "total": 1,
    }


async def test_the_description_covers_the_bridge_and_the_plugins(admin):
    document = (await admin.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]["/tokens"]) == {"get", "post"}
    item = document["paths"]["/node/probe/item/{item}"]["get"]
    assert item["summary"] == "Answer with a parameter."
    assert [parameter["name"] for parameter in item["parameters"]] == ["item"]
    assert "requestBody" in document["paths"]["/node/probe/sink"]["post"]
    token = document["paths"]["/tokens"]["post"]["requestBody"]
    assert token["required"] is True
    fields = token["content"]["application/json"]["schema"]["properties"]
    assert list(fields) == ["role", "owner", "expires", "endpoint"]


async def test_the_figures_count_endpoints_and_calls(admin):
    await admin.get("/node/probe/echo")
    text = (await admin.get("/metrics")).text
    assert 'orbit_endpoints{liveness="present"} 1.0' in text
    assert 'orbit_calls_total{status="200"} 1.0' in text


async def test_the_bridges_own_plugins_are_described(admin):
    reply = (await admin.get("/plugins")).json()
    assert reply["plugins"] == {}
    assert all(status["state"] != "served" for status in reply["statuses"])


async def test_a_plugin_hosted_at_the_bridge_is_listed_as_its_endpoint(tmp_path, monkeypatch):
    config = BridgeConfig(port=0, plugins=["sysinfo"])
    async with (
        open_deployment(tmp_path, config=config) as deployment,
        opened(deployment, await deployment.token(ADMIN)) as client,
    ):
        (row,) = (await client.get("/endpoints")).json()["endpoints"]
        reply = await client.get("/bridge/sysinfo/version")
    assert (row["name"], row["role"], row["plugins"]) == ("bridge", "bridge", ["sysinfo"])
    assert reply.status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/tokens"),
        ("POST", "/tokens"),
        ("DELETE", "/tokens/t1"),
        ("POST", "/endpoint/disconnect/node"),
        ("POST", "/bridge/terminate"),
    ],
)
async def test_what_administers_needs_an_administrator(deployment, method, path):
    async with opened(deployment, await deployment.token(BOB)) as client:
        assert fault_code(await client.request(method, path)) == (403, "forbidden")


async def test_a_token_is_made_listed_used_and_revoked(deployment, admin):
    made = (await admin.post("/tokens", json={"role": "client", "owner": "carol"})).json()
    listed = (await admin.get("/tokens")).json()["tokens"]
    assert made["id"] in [token["id"] for token in listed]
    assert made["token"] not in str(listed)
    async with opened(deployment, made["token"]) as client:
        assert (await client.get("/auth")).json() == {"owner": "carol", "role": "client"}
        assert (await admin.delete(f"/tokens/{made['id']}")).json() == {"ok": True}
        assert fault_code(await client.get("/auth")) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param({"owner": "x"}, "invalid_body", id="no role"),
        pytest.param({"role": "king", "owner": "x"}, "invalid_body", id="unknown role"),
        pytest.param({"role": "client", "owner": "../x"}, "invalid_name", id="bad owner"),
        pytest.param({"role": "client", "owner": "x", "expires": 0}, "bad_request", id="no time"),
        pytest.param(
            {"role": "endpoint", "owner": "x", "endpoint": "a/b"}, "invalid_name", id="bad endpoint"
        ),
        pytest.param(
            {"role": "endpoint", "owner": "x", "endpoint": "auth"}, "invalid_name", id="reserved"
        ),
    ],
)
async def test_a_request_for_a_token_with_a_fault_is_refused(admin, body, code):
    assert fault_code(await admin.post("/tokens", json=body)) == (400, code)


@pytest.mark.parametrize(
    ("path", "code", "detail"),
    [
        (
            "/nobody/psij/jobs",
            "unknown_endpoint",
            "no endpoint 'nobody' is connected: GET /endpoints, or orbit endpoints, lists those "
            "that are",
        ),
        (
            "/node/psij/jobs",
            "unknown_route",
            "endpoint node serves no plugin 'psij': GET /node/plugins, or orbit plugins node, "
            "tells which it does, and why no others",
        ),
        (
            "/bridge/psij/jobs",
            "unknown_route",
            "endpoint bridge serves no plugin 'psij': GET /bridge/plugins, or orbit plugins "
            "bridge, tells which it does, and why no others",
        ),
        (
            "/node/probe/nowhere/at%20all",
            "unknown_route",
            "plugin probe of endpoint node serves nothing at /nowhere/at all: GET /node/plugins "
            "lists its routes",
        ),
        ("/node", "unknown_route", "name a plugin of endpoint node: GET /node/plugins lists them"),
        (
            "/bridge",
            "unknown_route",
            "name a plugin of endpoint bridge: GET /bridge/plugins lists them",
        ),
        (
            "/tokens/a/b",
            "unknown_route",
            "nothing is served at /tokens/a/b: GET /openapi.json lists what is",
        ),
    ],
)
async def test_a_path_that_nothing_serves_is_told_which_part_of_it_is_wrong(
    deployment, path, code, detail
):
    async with opened(deployment, await deployment.token()) as client:
        assert fault(await client.get(path)) == (404, code, detail)


async def test_what_an_endpoint_lacks_is_told_only_to_whom_it_serves(deployment):
    async with opened(deployment, await deployment.token(BOB)) as client:
        replies = [await client.get(f"/node/{name}/x") for name in ("probe", "psij")]
    assert fault(replies[0]) == fault(replies[1])
    assert fault_code(replies[0]) == (403, "forbidden")


@pytest.mark.parametrize("name", ["node", "bridge"])
async def test_where_a_missing_plugin_is_looked_up_there_is_an_answer(deployment, name):
    async with opened(deployment, await deployment.token()) as client:
        assert (await client.get(f"/{name}/plugins")).status_code == 200
        assert (await client.get("/endpoints")).status_code == 200


async def test_revoking_an_unknown_token_is_refused(admin):
    assert fault_code(await admin.delete("/tokens/t0")) == (404, "unknown_token")


async def test_a_revoked_token_cuts_the_link_that_it_opened(deployment, admin):
    text = await endpoint_token(deployment, name="node")
    token = deployment.bridge.tokens.find(text)
    await admin.delete(f"/tokens/{token.id}")
    endpoint = deployment.endpoints["node"]
    with anyio.fail_after(5):
        await endpoint.stopped.wait()
    assert endpoint.fatal.status_code == 401
    assert fault_code(await admin.get("/node/probe/echo")) == (404, "unknown_endpoint")


async def test_a_revoked_token_cuts_its_listeners(deployment, admin):
    token = deployment.bridge.tokens.find(await deployment.token(BOB))
    async with (
        opened(deployment, await deployment.token(BOB)) as client,
        client.stream("GET", "/events") as events,
    ):
        chunks = events.aiter_bytes()
        await anext(chunks)
        await admin.delete(f"/tokens/{token.id}")
        with anyio.fail_after(5), pytest.raises(httpx.TransportError):
            await anext(chunks)


@pytest.mark.parametrize("path", ["/node/probe/trickle", "/node/probe/hang"])
async def test_a_revoked_token_cuts_its_calls_and_no_others(deployment, admin, path):
    token, text = await deployment.bridge.tokens.create(Role.CLIENT, "alice")
    broken = []

    async def call(shown):
        async with opened(deployment, shown) as client:
            try:
                await client.get(path)
            except httpx.TransportError:
                broken.append(shown)

    async with anyio.create_task_group() as group:
        for shown in (text, await deployment.token(ALICE)):
            group.start_soon(call, shown)
        probe = probe_of(deployment.endpoints["node"])
        await until(lambda: probe.entered == 2)
        assert len(deployment.bridge.proxy.callers) == 2
        await admin.delete(f"/tokens/{token.id}")
        await until(lambda: probe.cancelled == 1)
        probe.go.set()
    assert broken == [text]
    assert not deployment.bridge.proxy.callers


async def test_a_revoked_token_cuts_the_streams_of_a_plugin_that_the_bridge_hosts(
    tmp_path, monkeypatch
):
    offer(tmp_path, monkeypatch, f"[orbit.plugins]\nprobe = {PROBE}\n")
    config = BridgeConfig(port=0, plugins=["probe"])
    async with open_deployment(tmp_path, config=config) as deployment:
        bridge = deployment.bridge
        token, text = await bridge.tokens.create(Role.CLIENT, "alice")
        async with AsyncExitStack() as stack:
            streams = []
            for shown in (text, await deployment.token(ALICE)):
                client = await stack.enter_async_context(opened(deployment, shown))
                answer = await stack.enter_async_context(
                    client.stream("GET", "/bridge/probe/trickle")
                )
                streams.append(answer.aiter_bytes())
                assert await anext(streams[-1]) == b"part\n"
            await bridge.tokens.revoke(token.id)
            with anyio.fail_after(5), pytest.raises(httpx.TransportError):
                await anext(streams[0])
            probe = probe_of(bridge)
            await until(lambda: probe.cancelled == 1)
            probe.go.set()
            with pytest.raises(StopAsyncIteration):
                await anext(streams[1])
        await until(lambda: not bridge.proxy.callers)


async def test_an_endpoint_calls_a_plugin_that_the_bridge_hosts(tmp_path, monkeypatch):
    offer(tmp_path, monkeypatch, f"[orbit.plugins]\nprobe = {PROBE}\n")
    config = BridgeConfig(port=0, plugins=["probe"])
    plugins = {"node": [PROBE]}
    async with open_deployment(tmp_path, plugins=plugins, config=config) as deployment:
        hub = probe_of(deployment.endpoints["node"]).context.hub
        assert await hub.request("GET", "/bridge/probe/item/7") == {"item": "7"}


async def test_a_wrong_method_below_bridge_is_told_the_right_one(admin):
    detail = "/bridge/terminate takes POST, not GET"
    assert fault(await admin.get("/bridge/terminate")) == (405, "method_not_allowed", detail)


async def test_logging_out_cuts_the_listeners_of_that_cookie_alone(deployment):
    async with AsyncExitStack() as stack:
        clients, streams = [], []
        for _ in range(2):
            client = opened(deployment, await deployment.token(ALICE))
            await stack.enter_async_context(client)
            await client.post("/auth")
            del client.headers["Authorization"]
            events = await stack.enter_async_context(client.stream("GET", "/events"))
            streams.append(events.aiter_bytes())
            await anext(streams[-1])
            clients.append(client)
        await clients[0].delete("/auth")
        with anyio.fail_after(5), pytest.raises(httpx.TransportError):
            await anext(streams[0])
        await until(lambda: len(deployment.bridge.listeners) == 1)
        assert (await clients[1].get("/auth")).status_code == 200


async def test_listeners_are_cut_when_their_cookie_runs_out_and_no_others(tmp_path):
    config = BridgeConfig(port=0, plugins=[], session_cookie_ttl=2.0)
    async with open_deployment(tmp_path, config=config) as deployment, AsyncExitStack() as stack:
        token = await deployment.token(ALICE)
        by_cookie, by_token = [
            await stack.enter_async_context(opened(deployment, token)) for _ in range(2)
        ]
        streams = []
        for client in (by_cookie, by_token):
            assert (await client.post("/auth")).status_code == 200
            if client is by_cookie:
                del client.headers["Authorization"]
            events = await stack.enter_async_context(client.stream("GET", "/events"))
            streams.append(events.aiter_bytes())
            await anext(streams[-1])
        with anyio.fail_after(10), pytest.raises(httpx.TransportError):
            await anext(streams[0])
        assert fault_code(await by_cookie.get("/auth")) == (401, "unauthorized")
        async with deployment.endpoint("node"):
            with anyio.fail_after(5):
                assert b"node" in await anext(streams[1])


async def test_a_cookie_stands_for_the_token_until_logging_out(deployment):
    async with opened(deployment, await deployment.token(ALICE)) as client:
        reply = await client.post("/auth")
        del client.headers["Authorization"]
        assert (await client.get("/auth")).json()["owner"] == "alice"
        assert fault_code(await client.post("/auth")) == (401, "unauthorized")
        kept = dict(client.cookies)
        await client.delete("/auth")
        client.cookies.update(kept)
        assert fault_code(await client.get("/auth")) == (401, "unauthorized")
    cookie = reply.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "max-age=43200" in cookie


async def test_who_has_no_cookie_may_log_out_too(admin):
    assert (await admin.delete("/auth")).json() == {"ok": True}


async def test_a_cookie_is_not_for_pages_of_another_origin(deployment):
    async with opened(deployment, await deployment.token(ALICE)) as client:
        await client.post("/auth")
        del client.headers["Authorization"]
        reply = await client.get("/auth", headers={"Origin": "http://evil.example"})
    assert fault_code(reply) == (403, "forbidden")


async def test_a_disconnected_endpoint_leaves_and_its_name_is_free(deployment, admin):
    endpoint = deployment.endpoints["node"]
    reply = await admin.post("/endpoint/disconnect/node")
    assert reply.json() == {"status": "shutdown", "endpoint": "node"}
    with anyio.fail_after(5):
        await endpoint.stopped.wait()
    assert "disconnected by root" in endpoint.fatal.detail
    assert (await admin.get("/endpoints")).json()["total"] == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [("nobody", (404, "unknown_endpoint")), ("bridge", (400, "bad_request"))],
)
async def test_who_is_not_there_cannot_be_disconnected(admin, name, expected):
    assert fault_code(await admin.post(f"/endpoint/disconnect/{name}")) == expected


async def test_an_administrator_stops_the_bridge(deployment, admin):
    assert (await admin.post("/bridge/terminate")).json()["status"] == "terminating"
    assert deployment.bridge.stopped.is_set()


async def test_an_endpoint_without_a_link_is_suspect_then_lost(deployment, admin):
    endpoint = deployment.endpoints["node"]
    endpoint.stopped.set()
    endpoint.link.cut()
    seen = []

    async def is_gone():
        rows = (await admin.get("/endpoints")).json()["endpoints"]
        if rows and rows[0]["liveness"] not in seen:
            seen.append(rows[0]["liveness"])
        return not rows

    await until(is_gone)
    assert "suspect" in seen


async def test_a_peer_that_never_says_hello_is_not_listed(deployment, admin):
    token = await endpoint_token(deployment)
    async with handshake(deployment, token):
        await until(lambda: len(deployment.bridge.registry.members) == 2)
        rows = (await admin.get("/endpoints")).json()["endpoints"]
    assert [row["name"] for row in rows] == ["node"]


async def test_without_authentication_everybody_administers_but_only_as_localhost(tmp_path):
    config = BridgeConfig(port=0, plugins=[], no_auth=True)
    async with (
        open_deployment(tmp_path, plugins={"node": [PROBE]}, config=config) as deployment,
        opened(deployment) as client,
    ):
        assert (await client.get("/auth")).json()["role"] == "admin"
        assert (await client.post("/auth")).json() == {"ok": True}
        reply = await client.get("/endpoints", headers={"Host": "evil.example"})
    assert fault_code(reply) == (403, "forbidden")


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        ([], None, 200),
        ([], "the bridge's", 200),
        ([], "https://evil.example", 403),
        ([], "null", 403),
        (["https://portal.example"], "https://portal.example", 200),
        (["https://portal.example"], "https://evil.example", 403),
        (["*"], "https://evil.example", 200),
    ],
)
async def test_without_authentication_only_pages_that_are_named_may_call(
    tmp_path, allowed, origin, status
):
    config = BridgeConfig(port=0, plugins=[], no_auth=True, allow_origins=allowed)
    async with open_deployment(tmp_path, config=config) as deployment, opened(deployment) as client:
        shown = deployment.url if origin == "the bridge's" else origin
        headers = {} if shown is None else {"Origin": shown}
        reply = await client.post("/endpoint/list", headers=headers)
    assert reply.status_code == status
    if status == 403:
        assert fault(reply)[2] == (
            f"this bridge takes no calls of pages at {origin!r}: "
            "without authentication allow_origins must name them"
        )


async def test_named_origins_may_call(tmp_path):
    config = BridgeConfig(port=0, plugins=[], allow_origins=["https://portal.example"])
    async with open_deployment(tmp_path, config=config) as deployment, opened(deployment) as client:
        headers = {"Origin": "https://portal.example", "Access-Control-Request-Method": "POST"}
        reply = await client.options("/endpoint/list", headers=headers)
    assert reply.headers["access-control-allow-origin"] == "https://portal.example"


async def test_a_given_token_is_accepted_as_an_administrators(tmp_path, monkeypatch):
    monkeypatch.setenv("ORBIT_TOKEN", "given-secret")
    for _ in range(2):
        async with (
            open_deployment(tmp_path) as deployment,
            opened(deployment, "given-secret") as client,
        ):
            assert (await client.get("/auth")).json()["role"] == "admin"
            assert len(deployment.bridge.tokens.list()) == 1


async def test_a_token_given_to_an_earlier_process_is_accepted_no_more(tmp_path, monkeypatch):
    async def tokens_found(given):
        monkeypatch.setenv("ORBIT_TOKEN", given)
        async with open_deployment(tmp_path) as deployment:
            found = []
            for secret in ("first-secret", "second-secret"):
                async with opened(deployment, secret) as client:
                    found.append((await client.get("/auth")).status_code)
            return found, len(deployment.bridge.tokens.list())

    assert await tokens_found("first-secret") == ([200, 401], 1)
    assert await tokens_found("second-secret") == ([401, 200], 1)
    assert await tokens_found("") == ([401, 401], 1)


async def test_the_bridges_own_token_may_be_given_and_stays(tmp_path, monkeypatch):
    async with open_deployment(tmp_path):
        text = (tmp_path / "bridge" / "admin.token").read_text()
    for given in (text, "other-secret"):
        monkeypatch.setenv("ORBIT_TOKEN", given)
        async with open_deployment(tmp_path) as deployment, opened(deployment, text) as client:
            assert (await client.get("/auth")).json()["role"] == "admin"


async def test_the_first_start_leaves_an_administrators_token_for_this_user_alone(tmp_path):
    for _ in range(2):
        async with open_deployment(tmp_path) as deployment:
            path = tmp_path / "bridge" / "admin.token"
            assert path.stat().st_mode & 0o777 == 0o600
            async with opened(deployment, path.read_text()) as client:
                assert (await client.get("/auth")).json()["role"] == "admin"
            assert len(deployment.bridge.tokens.list()) == 1


async def test_what_is_described_but_not_served_is_left_out(deployment, admin):
    node = deployment.bridge.registry.get("node")
    node.info = attrs.evolve(node.info, plugins={})
    document = (await admin.post("/endpoint/list")).json()["data"]
    assert document["endpoints"]["node"]["plugins"] == {}


async def test_the_head_of_the_event_stream_has_no_events(admin):
    assert (await admin.head("/events")).content == b""


async def test_a_suspect_endpoint_is_not_asked_for_its_plugins(tmp_path):
    config = BridgeConfig(port=0, plugins=[], grace=60)
    async with (
        open_deployment(tmp_path, plugins={"node": [PROBE]}, config=config) as deployment,
        opened(deployment, await deployment.token(ADMIN)) as client,
    ):
        endpoint = deployment.endpoints["node"]
        endpoint.stopped.set()
        endpoint.link.cut()
        await until(lambda: deployment.bridge.registry.get("node").suspect_since is not None)
        with anyio.fail_after(4):
            document = (await client.post("/endpoint/list")).json()["data"]
    assert document["endpoints"]["node"]["endpoint"]["liveness"] == "suspect"


def plugins(*names, type="x"):
    return {"plugins": {name: {"type": type, "namespace": "/x"} for name in names}}


@pytest.mark.parametrize(
    "hello",
    [
        pytest.param({"role": 7}, id="a wrong type"),
        pytest.param({"role": "login\nWARNING forged"}, id="a role of two lines"),
        pytest.param(plugins("psij\nWARNING forged"), id="a plugin of two lines"),
        pytest.param(plugins("psij", type="x" * 256 * 1024), id="very much"),
    ],
)
async def test_a_hello_that_is_none_breaks_the_link(deployment, hello):
    async with joined_by_hand(deployment) as link:
        link.send(Kind.HELLO, 0, pack_value(hello))
        await until(lambda: deployment.bridge.registry.get("other").link.is_broken)
    assert "other" not in deployment.bridge.registry.topology()


@pytest.mark.parametrize("stamp", [("root", "admin", None), ("alice", "admin", "node")])
async def test_an_endpoint_cannot_say_for_whom_it_speaks(deployment, stamp):
    async with joined_by_hand(deployment) as link:
        head = RequestHead("GET", b"/tokens", [], {"principal": stamp})
        call = link.call(head, b"", fin=True)
        with anyio.fail_after(5):
            assert (await call.response()).status == 403
            assert b"this needs an administrator's token" in await call.read()


async def test_a_second_hello_breaks_the_link(deployment):
    async with joined_by_hand(deployment) as link:
        for _ in range(2):
            link.send(Kind.HELLO, 0, pack_value({}))
        await until(lambda: deployment.bridge.registry.get("other").link.is_broken)


async def test_what_only_a_bridge_says_is_passed_over_from_an_endpoint(deployment):
    async with joined_by_hand(deployment) as link:
        link.send(Kind.TOPOLOGY, 0, pack_value({}))
        link.send(Kind.HELLO, 0, pack_value(to_data(Hello())))
        await until(lambda: "other" in deployment.bridge.registry.topology())


async def test_an_endpoint_that_leaves_twice_is_forgotten_once(deployment):
    async with joined_by_hand(deployment) as link:
        link.send(Kind.HELLO, 0, pack_value(to_data(Hello())))
        await until(lambda: "other" in deployment.bridge.registry.topology())
        for _ in range(2):
            link.send(Kind.SHUTDOWN, 0, pack_value({}))
        await until(lambda: "other" not in deployment.bridge.registry.topology())
    assert "node" in deployment.bridge.registry.topology()
