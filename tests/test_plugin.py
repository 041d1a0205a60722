from pathlib import Path
from typing import Any, ClassVar

import anyio
import attrs
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from orbit_core import plugin as plugin_module
from orbit_core.errors import InvalidName
from orbit_core.hookspecs import hookimpl
from orbit_core.models import EndpointInfo, HostRole, Principal, Role, Topology
from orbit_core.plugin import Plugin
from orbit_core.sessions import PluginSession
from orbit_core.testing import ADMIN, ALICE, BOB, open_plugin
from tests.asking import fault
from tests.notes_plugin import NotesPlugin, NotesSession
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]

NOTES = "tests.notes_plugin:NotesPlugin"
PLAIN = "tests.test_plugin:Plain"
BARE = "tests.test_plugin:Bare"


@attrs.frozen
class Answer:
    value: int


class Loose(PluginSession):
    def __init__(self, sid, **settings):
        super().__init__(sid)


class Plain(Plugin):
    plugin_name = "plain"
    session_class = Loose
    ui_config: ClassVar[Any] = {"title": "As a dict"}
    ui_module = Path(__file__).with_name("waiting.py")
    calls: ClassVar[list[str]] = []

    def __init__(self, context, instance_name=None):
        super().__init__(context, instance_name)
        self.add_route_get("/model/{x}", self.model)
        self.add_route_get("text", self.text)
        self.add_route_put("text/{path:path}", self.text)
        self.add_route_post("once", self.once, idempotent=True)
        self.count = 0

    async def start(self):
        self.calls.append("start")

    async def stop(self):
        await super().stop()
        self.calls.append("stop")

    async def on_topology_change(self, topology):
        await super().on_topology_change(topology)
        self.calls.append("topology")

    async def health(self):
        return "the disk is full"

    async def model(self, request: Request) -> Answer:
        """Answer with a model."""
        return Answer(int(request.path_params["x"]))

    async def text(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("as it is")

    async def once(self, request: Request) -> dict[str, int]:
        self.count += 1
        return {"count": self.count}


class Bare(Plugin):
    plugin_name = "bare"


class Choosy(Plugin):
    plugin_name = "choosy"

    @classmethod
    def is_enabled(cls, host):
        return host.role is HostRole.LOGIN


@pytest.fixture
async def notes(tmp_path):
    async with open_plugin(NOTES, tmp_path, instance="notes2") as found:
        yield found


@pytest.fixture
async def plain(tmp_path):
    Plain.calls.clear()
    async with open_plugin(PLAIN, tmp_path) as found:
        yield found


async def test_the_standard_routes_answer_as_documented(notes):
    http = notes.http()
    sid = (await http.post("/notes2/register_session")).json()["sid"]
    health = (await http.get("/notes2/health")).json()

    assert sid.startswith("session.")
    assert len(sid) == len("session.") + 8
    assert (await http.get("/notes2/version")).json() == {"version": "3.2.1"}
    assert (await http.get("/notes2/list_sessions")).json() == {"sessions": [sid]}
    assert health.pop("uptime_seconds") >= 0
    assert health == {
        "status": "healthy", "plugin": "notes2", "version": "3.2.1", "active_sessions": 1,
    }  # fmt: skip
    assert (await http.post(f"/notes2/unregister_session/{sid}")).json() == {"ok": True}
    assert (await http.get("/notes2/list_sessions")).json() == {"sessions": []}


async def test_the_page_is_described_with_all_its_defaults(notes):
    page = (await notes.http().get("/notes2/ui_config")).json()

    assert (page["plugin_name"], page["instance_name"]) == ("notes", "notes2")
    assert (page["version"], page["ui"]["title"], page["ui"]["forms"]) == ("3.2.1", "Notes", [])


async def test_a_page_may_be_a_dict_or_left_out(plain, tmp_path):
    assert (await plain.http().get("/plugin/ui_config")).json()["ui"] == {"title": "As a dict"}
    async with open_plugin(BARE, tmp_path / "b") as bare:
        page = (await bare.http().get("/plugin/ui_config")).json()
    assert page["ui"]["title"] == "bare"


async def test_a_portal_module_is_served_as_javascript(plain):
    reply = await plain.http().get("/plugin/ui_module")

    assert reply.headers["content-type"].startswith("text/javascript")
    assert reply.content == Plain.ui_module.read_bytes()


async def test_a_plugin_without_a_portal_module_has_none(notes):
    reply = await notes.http().get("/notes2/ui_module")

    assert fault(reply) == (404, "unknown_route", "plugin notes2 has no portal module")


async def test_handlers_may_return_models_and_responses(plain):
    assert (await plain.http().get("/plugin/model/7")).json() == {"value": 7}
    assert (await plain.http().get("/plugin/text")).text == "as it is"
    assert (await plain.http().head("/plugin/text")).status_code == 200
    assert (await plain.http().put("/plugin/text/a/b")).text == "as it is"
    assert (await plain.http().get("/plugin/model/7/8")).status_code == 404


async def test_an_idempotent_route_does_its_work_once_for_a_key(plain):
    http, key = plain.http(), {"Idempotency-Key": "k"}

    assert (await http.post("/plugin/once", headers=key)).json() == {"count": 1}
    assert (await http.post("/plugin/once", headers=key)).json() == {"count": 1}
    assert (await http.post("/plugin/once")).json() == {"count": 2}


async def test_a_plugin_says_what_is_wrong_with_it(plain):
    assert (await plain.http().get("/plugin/health")).json()["status"] == "the disk is full"


async def test_a_session_does_its_owners_work_and_tells_only_its_owner(notes):
    http = notes.http()
    sid = (await http.post("/notes2/register_session", json={"title": "T"})).json()["sid"]
    assert (await http.post(f"/notes2/add/{sid}", json={"text": "x"})).json() == {"count": 1}
    reply = await http.get(f"/notes2/notes/{sid}")

    assert reply.json() == {"title": "T", "notes": ["x"]}
    assert [
        (n.plugin, n.topic, n.data, n.session, n.owner, n.seq) for n in notes.notifications
    ] == [("notes2", "note", {"text": "x"}, sid, "alice", 1)]


async def test_somebody_elses_session_is_403_except_for_admins(notes):
    sid = (await notes.http().post("/notes2/register_session")).json()["sid"]
    path = f"/notes2/notes/{sid}"

    assert fault(await notes.http(BOB).get(path)) == (
        403, "forbidden", f"session {sid} belongs to somebody else: register your own",
    )  # fmt: skip
    assert (await notes.http(ADMIN).get(path)).status_code == 200
    assert (await notes.http(BOB).get("/notes2/list_sessions")).json() == {"sessions": []}


@pytest.mark.parametrize("method", ["get", "post"])
async def test_an_unknown_session_is_404(notes, method):
    path = {"get": "/notes2/notes/nope", "post": "/notes2/unregister_session/nope"}[method]

    reply = await getattr(notes.http(), method)(path)

    assert fault(reply) == (404, "unknown_session", "unknown session id: nope")


async def test_an_expired_session_is_410_until_it_is_registered_anew(notes):
    http, now = notes.http(), [1000.0]
    notes.plugin.sessions._clock = lambda: now[0]
    body = {"sid": "mine", "lifetime": "ttl", "ttl": 5}
    await http.post("/notes2/register_session", json=body)
    now[0] += 5
    for _ in range(3):
        assert fault(await http.get("/notes2/notes/mine")) == (
            410, "session_expired", "session mine expired: register a new one",
        )  # fmt: skip
    reply = await http.post("/notes2/register_session", json=body)
    assert (reply.status_code, reply.json()) == (200, {"sid": "mine"})
    assert (await http.get("/notes2/notes/mine")).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code", "detail"),
    [
        ("{", 400, "invalid_body", "the body is not JSON: "),
        ("[]", 400, "invalid_body", "the body must be a JSON object, not a list"),
        ('{"ttl": "1"}', 400, "invalid_body", "body: expected a number, got str at ttl"),
        ('{"sid": "a/b"}', 400, "invalid_name", "session id 'a/b' is not a valid name"),
        ('{"lifetime": "ever"}', 400, "invalid_body", "body: expected one of ephemeral, ttl"),
        ('{"lifetime": "ttl"}', 409, "session_conflict", "lifetime ttl takes a finite positive"),
        ('{"sid": "default", "ttl": 1}', 409, "session_conflict", "the session 'default' is "),
        ('{"colour": 1}', 400, "invalid_body", "this plugin's sessions do not take that: "),
        ('{"self": 1}', 400, "invalid_body", "this plugin's sessions do not take that: "),
    ],
)
async def test_a_wrong_request_for_a_session_is_refused(notes, body, status, code, detail):
    reply = await notes.http().post("/notes2/register_session", content=body)

    assert fault(reply)[:2] == (status, code)
    assert fault(reply)[2].startswith(detail)
    assert len(notes.plugin.sessions) == 0


async def test_a_setting_named_self_reaches_no_session_that_takes_any(plain):
    reply = await plain.http().post("/plugin/register_session", json={"self": 1})

    assert fault(reply)[:2] == (400, "invalid_body")
    reply = await plain.http().post("/plugin/register_session", json={"other": 1})
    assert reply.status_code == 200


async def test_a_plugin_without_a_session_class_says_so(tmp_path):
    async with open_plugin(BARE, tmp_path) as bare:
        reply = await bare.http().post("/plugin/register_session")

    assert fault(reply) == (500, "no_session_class", "plugin plugin has no sessions")


async def test_sessions_and_replies_survive_a_restart(tmp_path):
    key = {"Idempotency-Key": "k"}
    async with open_plugin(NOTES, tmp_path) as notes:
        first = await notes.http().post("/plugin/register_session", headers=key)
    async with open_plugin(NOTES, tmp_path) as notes:
        again = await notes.http().post("/plugin/register_session", headers=key)
        listed = await notes.http().get("/plugin/list_sessions")

    assert first.json() == again.json()
    assert listed.json() == {"sessions": [first.json()["sid"]]}


@pytest.mark.parametrize("role", HostRole)
async def test_a_plugin_knows_what_kind_of_host_it_serves(tmp_path, role):
    async with open_plugin(BARE, tmp_path, role=role) as bare:
        plugin = bare.plugin
    found = {
        HostRole.BRIDGE: plugin.is_bridge,
        HostRole.LOGIN: plugin.is_login_node,
        HostRole.COMPUTE: plugin.is_compute_node,
        HostRole.STANDALONE: plugin.is_standalone,
    }

    assert plugin.role is role
    assert [kind for kind, true in found.items() if true] == [role]
    assert (plugin.namespace, len(plugin.uid)) == ("/plugin", 36)


async def test_a_plugin_notifies_everybody(plain):
    await plain.plugin.send_notification("news", [1])

    assert [(n.topic, n.data, n.owner) for n in plain.notifications] == [("news", [1], None)]


async def test_a_session_notifies_everybody_through_its_plugin_from_any_thread(plain):
    await plain.http().post("/plugin/register_session", json={"sid": "s"})
    session = await plain.plugin.sessions.get(ALICE, "s")
    await anyio.to_thread.run_sync(session._plugin._dispatch_notify, "news", [2])
    await until(lambda: plain.notifications)

    (heard,) = plain.notifications
    assert (heard.plugin, heard.topic, heard.data, heard.owner) == ("plugin", "news", [2], None)


async def test_an_overridden_hook_counts_without_a_mark(tmp_path):
    async with open_plugin("tests.test_plugin:Choosy", tmp_path) as choosy:
        status = choosy.status

    assert (status.state, status.reason) == ("disabled", "declines this host (standalone)")


async def test_a_plugin_starts_once_and_stops_once(tmp_path):
    Plain.calls.clear()
    async with open_plugin(PLAIN, tmp_path):
        assert Plain.calls == ["start"]
    assert Plain.calls == ["start", "stop"]


async def test_a_plugin_hears_which_endpoints_are_there(plain):
    topology = Topology({"n1": EndpointInfo("login")})
    await plain.plugin.on_topology_change(topology)

    assert Plain.calls == ["start", "topology"]
    assert plain.plugin.sessions._lifetimes.topology is topology


async def test_a_plugin_sweeps_its_sessions(tmp_path, monkeypatch):
    monkeypatch.setattr(plugin_module, "SWEEP_INTERVAL", 0.001)
    async with open_plugin(NOTES, tmp_path) as notes:
        now = [1000.0]
        notes.plugin.sessions._clock = lambda: now[0]
        await notes.http(ALICE).post("/plugin/register_session", json={"ttl": 5})
        now[0] += 5
        await until(lambda: len(notes.plugin.sessions) == 0)


async def test_a_sweep_that_cannot_write_is_tried_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(plugin_module, "SWEEP_INTERVAL", 0.001)
    async with open_plugin(NOTES, tmp_path) as notes:
        await notes.http().post("/plugin/register_session")
        store = notes.plugin.context.documents.store
        await store.execute(lambda connection: connection.execute("PRAGMA query_only=1"))
        await notes.http().get("/plugin/notes/default")
        notes.plugin._idempotency._next_sweep = 0.0
        for sid in notes.plugin.sessions.visible_to(ALICE):
            await notes.http().get(f"/plugin/notes/{sid}")
        await until(lambda: caplog.text.count("plugin plugin sweeps later: ") > 1)
        await store.execute(lambda connection: connection.execute("PRAGMA query_only=0"))


@pytest.mark.parametrize("route", ["nothing", "notes", "version/", ""])
async def test_an_unknown_route_is_named(notes, route):
    reply = await notes.http().get(f"/notes2/{route}")

    detail = f"plugin notes2 of endpoint test serves nothing at /{route}: GET /test/plugins "
    assert fault(reply) == (404, "unknown_route", f"{detail}lists its routes")


@pytest.mark.parametrize(
    ("method", "route", "allow"),
    [("POST", "version", "GET, HEAD"), ("GET", "register_session", "POST")],
)
async def test_a_wrong_method_is_told_the_right_one(notes, method, route, allow):
    reply = await notes.http().request(method, f"/notes2/{route}")

    detail = f"/notes2/{route} takes {allow}, not {method}"
    assert fault(reply) == (405, "method_not_allowed", detail)
    assert reply.headers["Allow"] == allow


@pytest.mark.parametrize("route", ["add/{}", "unregister_session/{}"])
async def test_somebody_elses_session_cannot_be_written_or_ended(notes, route):
    sid = (await notes.http().post("/notes2/register_session")).json()["sid"]

    reply = await notes.http(BOB).post(f"/notes2/{route.format(sid)}", json={"text": "x"})

    assert fault(reply)[:2] == (403, "forbidden")
    assert (await notes.http().get(f"/notes2/notes/{sid}")).json()["notes"] == []


async def test_the_default_session_needs_no_registration_and_is_everybodys(notes):
    for principal in (ALICE, BOB):
        body = {"text": principal.owner}
        await notes.http(principal).post("/notes2/add/default", json=body)

    reply = await notes.http().get("/notes2/notes/default")
    assert reply.json()["notes"] == ["alice", "bob"]


async def test_an_endpoints_session_is_not_its_owners(notes):
    node = Principal("alice", Role.ENDPOINT, endpoint="node7")
    sid = (await notes.http(node).post("/notes2/register_session")).json()["sid"]

    assert fault(await notes.http().get(f"/notes2/notes/{sid}"))[:2] == (403, "forbidden")


async def test_a_sessions_notifications_are_numbered_until_its_end(notes):
    http = notes.http()
    for _ in range(2):
        await http.post("/notes2/register_session", json={"sid": "s"})
        for _ in range(2):
            await http.post("/notes2/add/s", json={"text": "x"})
        await http.post("/notes2/unregister_session/s")

    assert [found.seq for found in notes.notifications] == [1, 2, 1, 2]


async def test_instances_keep_their_sessions_apart(tmp_path):
    for instance in ("one", "two"):
        async with open_plugin(NOTES, tmp_path, instance=instance) as found:
            assert found.plugin.sessions.visible_to(ADMIN) == []
            await found.http().post(f"/{instance}/register_session")


async def test_an_instance_name_must_be_safe(notes):
    with pytest.raises(InvalidName):
        NotesPlugin(notes.plugin.context, "../x")


async def test_a_session_that_starts_slowly_delays_no_other(notes):
    NotesSession.made.clear()
    body = {"sid": "slow", "waits": "start"}
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: notes.http().post("/notes2/register_session", json=body))
        await until(lambda: NotesSession.made)

        reply = await notes.http().post("/notes2/register_session", json={"sid": "quick"})

        NotesSession.made[0].go.set()
    assert reply.json() == {"sid": "quick"}


def test_a_hook_that_is_marked_keeps_its_mark():
    class Marked(Plugin):
        @hookimpl(trylast=True)
        def notify(self, notification):
            pass

    assert Marked.notify.orbit_impl["trylast"]
