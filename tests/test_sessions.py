from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from orbit_core import sessions as sessions_module
from orbit_core._store import Store, open_store
from orbit_core.errors import (
    Forbidden,
    InvalidBody,
    InvalidName,
    OrbitError,
    SessionConflict,
    SessionExpired,
    StateUnavailable,
    UnknownSession,
)
from orbit_core.models import EndpointInfo, Principal, Role, Topology, own_sid
from orbit_core.sessions import PluginSession, Sessions
from tests.machines import StoreMachine
from tests.notes_plugin import NotesSession
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]

ALICE, BOB = Principal("alice", Role.CLIENT), Principal("bob", Role.CLIENT)
ADMIN = Principal("root", Role.ADMIN)
NODE = Principal("alice", Role.ENDPOINT, endpoint="node7")
IDLE = 3600.0


@attrs.define(eq=False)
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def build(sid: str, wanted: dict[str, Any], owner: str | None) -> PluginSession:
    return NotesSession(sid, **wanted)


def sessions_in(store: Store, clock: Clock, idle: float = IDLE, **options: Any) -> Sessions:
    found = Sessions(build, store.space("sessions"), idle, **options)
    found._clock = clock
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path) as found:
        yield found


@pytest.fixture
def sessions(store: Store, clock: Clock) -> Sessions:
    return sessions_in(store, clock)


@pytest.fixture
def restart(store: Store, clock: Clock) -> Callable[[], Any]:
    """Return what makes a second table of the same records, as the next process would."""

    async def restarted() -> Sessions:
        found = sessions_in(store, clock)
        await found.restore()
        return found

    return restarted


async def pragma(store: Store, text: str) -> None:
    await store.execute(lambda connection: connection.execute(f"PRAGMA {text}"))


async def test_a_session_gets_an_id_and_is_found_again(sessions):
    session = await sessions.register(ALICE, {"title": "mine"})

    assert session.sid.startswith("session.")
    assert len(session.sid) == len("session.") + 8
    assert session.calls == ["start"]
    assert await sessions.get(ALICE, session.sid) is session
    assert len(sessions) == 1


async def test_a_client_may_choose_the_id(sessions):
    session = await sessions.register(ALICE, {"sid": "mine"})

    assert (session.sid, session.is_active) == ("mine", True)


@pytest.mark.parametrize(
    "sid", ["", "../x", "a/b", ".hidden", "a" * 65, "a\n", "ü", "a..b", "/etc"], ids=ascii
)
async def test_an_id_that_is_no_name_is_refused(sessions, sid):
    with pytest.raises(InvalidName, match=r"^session id .* is not a valid name: "):
        await sessions.register(ALICE, {"sid": sid})

    assert len(sessions) == 0


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"sid": ["a"]}, "expected str, got list at sid"),
        ({"ttl": "5"}, "expected a number, got str at ttl"),
        ({"ttl": True}, "expected a number, got bool at ttl"),
        (
            {"lifetime": "long"},
            "expected one of ephemeral, ttl, persistent, got 'long' at lifetime",
        ),
    ],
    ids=["sid", "ttl", "boolean ttl", "lifetime"],
)
async def test_a_request_of_the_wrong_types_is_refused(sessions, body, fault):
    with pytest.raises(InvalidBody) as caught:
        await sessions.register(ALICE, body)

    assert caught.value.detail == f"body: {fault}"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (
            {"lifetime": "persistent", "ttl": 5},
            "lifetime persistent takes no ttl: leave it out, or ask for lifetime ttl",
        ),
        (
            {"lifetime": "ephemeral", "ttl": 5},
            "lifetime ephemeral takes no ttl: leave it out, or ask for lifetime ttl",
        ),
        (
            {"lifetime": "ttl"},
            "lifetime ttl takes a finite positive number of seconds as ttl, not None",
        ),
        (
            {"ttl": 0},
            "lifetime ttl takes a finite positive number of seconds as ttl, not 0.0",
        ),
        (
            {"lifetime": "ttl", "ttl": -1},
            "lifetime ttl takes a finite positive number of seconds as ttl, not -1.0",
        ),
    ],
    ids=["persistent ttl", "ephemeral ttl", "no ttl", "zero", "negative"],
)
async def test_a_policy_that_contradicts_itself_is_refused(sessions, body, detail):
    with pytest.raises(SessionConflict) as caught:
        await sessions.register(ALICE, body)

    assert (caught.value.status_code, caught.value.detail) == (409, detail)


async def test_a_base_session_takes_no_settings(store, clock):
    found = Sessions(lambda sid, wanted, owner: PluginSession(sid, **wanted), store.space("s"), 0)

    with pytest.raises(InvalidBody, match=r"sessions take no settings, got: a, self$"):
        await found.register(ALICE, {"self": 1, "a": 2})


@pytest.mark.parametrize(
    "body", [{}, {"lifetime": "persistent"}, {"ttl": 5}], ids=["ephemeral", "persistent", "ttl"]
)
async def test_the_owner_reattaches_with_the_same_policy(sessions, body):
    session = await sessions.register(ALICE, {"sid": "s", **body})

    assert await sessions.register(ALICE, {"sid": "s", **body}) is session
    assert await sessions.register(ADMIN, {"sid": "s", **body}) is session


@pytest.mark.parametrize(
    "body", [{}, {"lifetime": "persistent"}, {"ttl": 6}], ids=["ephemeral", "persistent", "ttl"]
)
async def test_another_policy_is_a_conflict(sessions, body):
    await sessions.register(ALICE, {"sid": "s", "ttl": 5})

    with pytest.raises(SessionConflict) as caught:
        await sessions.register(ALICE, {"sid": "s", **body})

    assert caught.value.detail == "session s has lifetime ttl and ttl 5.0: ask for the same"


@pytest.mark.parametrize("act", ["register", "get", "unregister"])
async def test_somebody_elses_session_is_forbidden_alive_and_expired(sessions, clock, act):
    await sessions.register(ALICE, {"sid": "s"})
    for _ in range(2):
        with pytest.raises(Forbidden) as caught:
            await getattr(sessions, act)(BOB, {"sid": "s"} if act == "register" else "s")

        detail = "session s belongs to somebody else: register your own"
        assert (caught.value.status_code, caught.value.detail) == (403, detail)
        clock.now += IDLE
        await sessions.sweep()


@pytest.mark.parametrize("principal", [BOB, ADMIN, NODE], ids=["other", "admin", "endpoint"])
async def test_the_id_of_a_command_line_is_for_its_owner_alone(sessions, principal):
    with pytest.raises(Forbidden) as caught:
        await sessions.register(principal, {"sid": "cli.alice"})

    detail = "session cli.alice is kept for another owner: choose another id"
    assert (caught.value.status_code, caught.value.detail) == (403, detail)
    session = await sessions.register(ALICE, {"sid": "cli.alice"})
    assert await sessions.register(ADMIN, {"sid": "cli.alice"}) is session


@pytest.mark.parametrize("length", [60, 61, 64])
async def test_an_owner_of_any_length_has_an_id_of_its_own(sessions, length):
    owners = ["a" * length, "a" * (length - 1) + "b"]

    for owner in owners:
        principal = Principal(owner, Role.CLIENT)
        assert await sessions.register(principal, {"sid": own_sid(owner)})

    assert len(sessions) == 2


@pytest.mark.parametrize("act", ["get", "unregister"])
async def test_an_unknown_session_is_named(sessions, act):
    with pytest.raises(UnknownSession) as caught:
        await getattr(sessions, act)(ALICE, "session.00000000")

    detail = "unknown session id: session.00000000"
    assert (caught.value.status_code, caught.value.detail) == (404, detail)


@pytest.mark.parametrize("swept", [True, False], ids=["swept", "not yet swept"])
@pytest.mark.parametrize("act", ["get", "unregister"])
async def test_an_expired_session_stays_expired(sessions, clock, restart, act, swept):
    session = await sessions.register(ALICE, {"sid": "s"})
    clock.now += IDLE
    if swept:
        await sessions.sweep()

    for found in (sessions, sessions, await restart()):
        with pytest.raises(SessionExpired) as caught:
            await getattr(found, act)(ALICE, "s")

        detail = "session s expired: register a new one"
        assert (caught.value.status_code, caught.value.detail) == (410, detail)
    assert session.calls == ["start", "close"]
    assert not session.is_active


@pytest.mark.parametrize("swept", [True, False], ids=["swept", "not yet swept"])
@pytest.mark.parametrize("principal", [ALICE, ADMIN], ids=["owner", "admin"])
async def test_an_expired_session_starts_anew_for_its_owner(
    sessions, clock, restart, principal, swept
):
    old = await sessions.register(ALICE, {"sid": "s", "title": "old"})
    clock.now += IDLE
    if swept:
        await sessions.sweep()

    new = await sessions.register(principal, {"sid": "s", "ttl": 5})

    assert (old.calls, new.calls, new.title) == (["start", "close"], ["start"], "")
    assert await sessions.get(ALICE, "s") is new
    with pytest.raises(Forbidden):
        await sessions.get(BOB, "s")
    assert await (await restart()).get(ALICE, "s")


async def test_an_expired_session_that_does_not_start_anew_stays_expired(sessions, clock):
    await sessions.register(ALICE, {"sid": "s"})
    clock.now += IDLE

    with pytest.raises(ValueError, match=r"on purpose in start$"):
        await sessions.register(ALICE, {"sid": "s", "fails": "start"})

    with pytest.raises(SessionExpired):
        await sessions.get(ALICE, "s")


async def test_a_closed_session_refuses_work(sessions):
    session = await sessions.register(ALICE, {"sid": "s"})
    assert await session.add("early") == 1
    await sessions.unregister(ALICE, "s")

    with pytest.raises(SessionExpired, match=r"^session s is closed: register a new one$"):
        await session.add("late")


async def test_an_unregistered_session_is_unknown_and_its_id_free(sessions, restart):
    session = await sessions.register(ALICE, {"sid": "s"})

    await sessions.unregister(ALICE, "s")

    assert session.calls == ["start", "close"]
    assert len(await restart()) == 0
    with pytest.raises(UnknownSession):
        await sessions.get(ALICE, "s")
    assert await sessions.register(BOB, {"sid": "s"}) is not session


@pytest.mark.parametrize(
    ("body", "seconds", "lives"),
    [
        ({}, IDLE - 1, True),
        ({}, IDLE, False),
        ({"ttl": 5}, 4, True),
        ({"ttl": 5}, 5, False),
        ({"lifetime": "persistent"}, 1e9, True),
    ],
    ids=["idle less", "idle", "ttl less", "ttl", "persistent"],
)
async def test_a_session_lives_as_long_as_its_policy_says(sessions, clock, body, seconds, lives):
    await sessions.register(ALICE, body)
    clock.now += seconds

    await sessions.sweep()

    assert len(sessions) == lives


async def test_an_idle_time_of_zero_means_for_ever(store, clock):
    found = sessions_in(store, clock, 0)
    await found.register(ALICE, {})
    clock.now += 1e9

    await found.sweep()

    assert len(found) == 1


async def test_a_session_that_works_by_itself_has_its_time_again(store, clock):
    busy = {"works", "unknown"}
    found = sessions_in(store, clock, busy=lambda: busy)
    for sid in ("works", "rests"):
        await found.register(ALICE, {"sid": sid, "ttl": 5})
    clock.now += 6
    await found.sweep()
    assert found.visible_to(ALICE) == ["works"]

    busy.clear()
    clock.now += 4
    await found.sweep()
    assert found.visible_to(ALICE) == ["works"]

    clock.now += 2
    await found.sweep()
    assert found.visible_to(ALICE) == []


@pytest.mark.parametrize("act", ["get", "register"])
async def test_an_access_gives_a_session_its_time_again(sessions, clock, act):
    await sessions.register(ALICE, {"sid": "s", "ttl": 5})
    for _ in range(3):
        clock.now += 4
        await getattr(sessions, act)(ALICE, "s" if act == "get" else {"sid": "s", "ttl": 5})


def topology(liveness: str | None) -> Topology:
    others = {"other": EndpointInfo("login")}
    return Topology({**others, "node7": EndpointInfo("login", liveness)} if liveness else others)


@pytest.mark.parametrize(
    ("heard", "lives"),
    [("present", True), ("suspect", True), ("lost", False), (None, False)],
    ids=["present", "suspect", "lost", "gone"],
)
async def test_an_endpoints_session_ends_some_time_after_it_is_lost(sessions, clock, heard, lives):
    await sessions.register(NODE, {"sid": "s"})
    sessions.hear_topology(topology(heard))
    for seconds in (0, 299):
        clock.now += seconds
        await sessions.sweep()
        assert len(sessions) == 1
    clock.now += 1

    await sessions.sweep()

    assert len(sessions) == lives


async def test_an_endpoint_that_returns_keeps_its_sessions(sessions, clock):
    await sessions.register(NODE, {"sid": "s"})
    for liveness in (None, "present", None):
        sessions.hear_topology(topology(liveness))
        await sessions.sweep()
        clock.now += 200

    await sessions.sweep()

    assert len(sessions) == 1


@pytest.mark.parametrize("heard", [True, False], ids=["not linked", "at the very start"])
async def test_nobody_is_lost_to_a_host_that_hears_of_nobody(sessions, clock, heard):
    await sessions.register(NODE, {"sid": "s"})
    if heard:
        sessions.hear_topology(Topology())
    for _ in range(3):
        clock.now += 1000
        await sessions.sweep()

    assert len(sessions) == 1


async def test_the_default_session_is_made_on_first_use_for_everybody(sessions, clock):
    session = await sessions.get(ALICE, "default")
    clock.now += 1e9
    await sessions.sweep()

    assert await sessions.get(BOB, "default") is session
    assert await sessions.register(BOB, {"sid": "default"}) is session
    assert await sessions.register(BOB, {"sid": "default", "lifetime": "persistent"}) is session


@pytest.mark.parametrize("exists", [True, False], ids=["existing", "new"])
@pytest.mark.parametrize(
    "body", [{"lifetime": "ephemeral"}, {"ttl": 5}, {"lifetime": "persistent", "ttl": 5}]
)
async def test_the_default_session_takes_no_other_policy(sessions, body, exists):
    if exists:
        await sessions.register(ALICE, {"sid": "default"})

    with pytest.raises(SessionConflict) as caught:
        await sessions.register(ALICE, {"sid": "default", **body})

    detail = "the session 'default' is persistent: leave out lifetime and ttl"
    assert caught.value.detail == detail


async def test_a_default_session_that_nobody_used_cannot_be_unregistered(sessions):
    with pytest.raises(UnknownSession):
        await sessions.unregister(ALICE, "default")


async def test_a_caller_sees_its_own_sessions_oldest_first(sessions, clock):
    for sid, principal in (("c", ALICE), ("b", BOB), ("a", ALICE), ("default", BOB)):
        await sessions.register(principal, {"sid": sid})
        clock.now += 1

    assert sessions.visible_to(ALICE) == ["c", "a", "default"]
    assert sessions.visible_to(ADMIN) == ["c", "b", "a", "default"]


@pytest.mark.parametrize("sid", ["default", "s"])
@pytest.mark.parametrize("act", ["get", "register"])
async def test_requests_at_once_share_one_session_that_is_ready(sessions, sid, act):
    if act == "get" and sid == "s":
        await sessions.register(ALICE, {"sid": "other"})
    NotesSession.made.clear()
    found: list[NotesSession] = []

    async def ask() -> None:
        session = await sessions.register(ALICE, {"sid": sid})
        found.append(await sessions.get(ALICE, session.sid) if act == "get" else session)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ask)

    assert len(NotesSession.made) == 1
    assert [session.calls for session in found] == [["start"]] * 5


async def test_nobody_is_given_a_session_that_still_starts(sessions):
    NotesSession.made.clear()
    found: list[NotesSession] = []

    async def ask(body: dict[str, Any]) -> None:
        found.append(await sessions.register(ALICE, {"sid": "s", **body}))

    async with anyio.create_task_group() as group:
        group.start_soon(ask, {"waits": "start"})
        await until(lambda: NotesSession.made)
        group.start_soon(ask, {})
        await anyio.wait_all_tasks_blocked()
        await sessions.sweep()
        assert found == []
        NotesSession.made[0].go.set()

    assert found == NotesSession.made * 2


@pytest.mark.parametrize(
    ("fails", "error"), [("start", ValueError), ("orbit start", OrbitError)], ids=["bug", "refusal"]
)
async def test_a_session_that_does_not_start_leaves_nothing(sessions, restart, fails, error):
    with pytest.raises(error, match=r"on purpose in start$"):
        await sessions.register(ALICE, {"sid": "s", "fails": fails})

    assert len(sessions) == len(await restart()) == 0
    assert (await sessions.register(BOB, {"sid": "s"})).calls == ["start"]


async def test_who_waits_for_a_session_that_does_not_start_tries_for_itself(sessions):
    NotesSession.made.clear()

    async def ask(body: dict[str, Any]) -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await sessions.register(ALICE, {"sid": "s", **body})

    scopes: list[anyio.CancelScope] = []
    async with anyio.create_task_group() as group:
        group.start_soon(ask, {"waits": "start"})
        await until(lambda: NotesSession.made)
        group.start_soon(ask, {"title": "second"})
        await anyio.wait_all_tasks_blocked()
        scopes[0].cancel()

    assert (await sessions.get(ALICE, "s")).title == "second"


async def test_a_session_that_cannot_be_written_down_is_closed_and_refused(sessions, store):
    await pragma(store, "max_page_count = 1")
    NotesSession.made.clear()

    with pytest.raises(StateUnavailable) as caught:
        await sessions.register(ALICE, {"sid": "s", "title": "x" * 100_000})

    assert caught.value.status_code == 507
    assert NotesSession.made[0].calls == ["start", "close"]
    assert len(sessions) == 0


async def test_a_session_is_kept_if_it_cannot_be_deleted(sessions, store):
    session = await sessions.register(ALICE, {"sid": "s"})
    await pragma(store, "query_only = 1")

    with pytest.raises(StateUnavailable):
        await sessions.unregister(ALICE, "s")

    assert await sessions.get(ALICE, "s") is session
    assert session.calls == ["start"]


async def test_a_session_expires_even_if_that_cannot_be_written(sessions, store, clock, caplog):
    session = await sessions.register(ALICE, {"sid": "s"})
    await pragma(store, "query_only = 1")
    clock.now += IDLE

    with pytest.raises(SessionExpired):
        await sessions.get(ALICE, "s")

    assert session.calls == ["start", "close"]
    assert "session s expired, which is not kept" in caplog.text


@pytest.mark.parametrize(
    "fault", [{"fails": "close"}, {"fails": "orbit close"}, {"waits": "close"}], ids=str
)
async def test_a_session_that_does_not_close_keeps_no_other(
    sessions, clock, caplog, fault, monkeypatch
):
    monkeypatch.setattr(sessions_module, "CLOSE_TIMEOUT", 0.01)
    await sessions.register(ALICE, {"sid": "bad", **fault})
    good = await sessions.register(ALICE, {"sid": "good"})
    clock.now += IDLE

    await sessions.sweep()

    assert (len(sessions), good.calls) == (0, ["start", "close"])
    assert "session bad failed to close" in caplog.text
    with pytest.raises(SessionExpired):
        await sessions.get(ALICE, "bad")


async def test_a_session_is_closed_though_its_client_leaves_meanwhile(sessions):
    session = await sessions.register(ALICE, {"sid": "s", "waits": "close"})
    async with anyio.create_task_group() as group:
        group.start_soon(sessions.unregister, ALICE, "s")
        await until(lambda: "close" in session.calls)
        group.cancel_scope.cancel()
        session.go.set()

    assert not session.is_active


@pytest.mark.parametrize("ends", ["unregister", "sweep"])
async def test_an_id_is_taken_until_its_session_has_closed(sessions, clock, ends):
    session = await sessions.register(ALICE, {"sid": "s", "waits": "close"})
    clock.now += IDLE if ends == "sweep" else 0
    caught: list[str] = []

    async def squat() -> None:
        try:
            await sessions.register(BOB, {"sid": "s"})
            caught.append("registered")
        except Forbidden:
            caught.append("forbidden")

    async with anyio.create_task_group() as group:
        group.start_soon(
            *(sessions.sweep,) if ends == "sweep" else (sessions.unregister, ALICE, "s")
        )
        await until(lambda: "close" in session.calls)
        group.start_soon(squat)
        await anyio.wait_all_tasks_blocked()
        assert caught == []
        await sessions.suspend()
        session.go.set()

    assert caught == ["registered" if ends == "unregister" else "forbidden"]
    assert session.calls == ["start", "close"]


async def test_a_session_that_two_find_over_is_closed_once(sessions, clock):
    session = await sessions.register(ALICE, {"sid": "s", "waits": "close"})
    other = await sessions.register(ALICE, {"sid": "t"})
    clock.now += IDLE
    async with anyio.create_task_group() as group:
        group.start_soon(sessions.sweep)
        await until(lambda: "close" in session.calls)
        with pytest.raises(SessionExpired):
            await sessions.get(ALICE, "t")
        session.go.set()

    assert session.calls == other.calls == ["start", "close"]


async def test_the_end_of_a_session_is_told(store, clock):
    ended: list[str] = []
    found = sessions_in(store, clock, on_end=ended.append)
    for sid in ("expires", "leaves"):
        await found.register(ALICE, {"sid": sid})
    await found.unregister(ALICE, "leaves")
    clock.now += IDLE

    await found.sweep()

    assert ended == ["leaves", "expires"]


async def test_sessions_come_back_after_a_restart(sessions, restart):
    await sessions.register(ALICE, {"sid": "s", "ttl": 5, "title": "kept"})

    back = await (await restart()).get(ALICE, "s")

    assert (back.title, back.calls) == ("kept", ["restore"])


async def test_a_restart_keeps_owner_policy_and_the_last_access(sessions, clock, restart):
    await sessions.register(ALICE, {"sid": "s", "ttl": 5})
    clock.now += 4
    await sessions.get(ALICE, "s")
    await sessions.suspend()
    clock.now += 4

    found = await restart()

    with pytest.raises(Forbidden):
        await found.get(BOB, "s")
    assert await found.register(ALICE, {"sid": "s", "ttl": 5})
    assert found.visible_to(ALICE) == ["s"]


@pytest.mark.parametrize(
    "fault", [{"fails": "suspend"}, {"waits": "suspend"}], ids=["raises", "hangs"]
)
async def test_a_session_that_does_not_suspend_keeps_no_other(sessions, caplog, fault, monkeypatch):
    monkeypatch.setattr(sessions_module, "CLOSE_TIMEOUT", 0.01)
    await sessions.register(ALICE, {"sid": "bad", **fault})
    good = await sessions.register(ALICE, {"sid": "good"})

    await sessions.suspend()

    assert good.calls == ["start", "suspend"]
    assert "session bad failed to close" in caplog.text


async def test_sessions_let_go_though_the_disk_is_full(sessions, store, clock, caplog):
    session = await sessions.register(ALICE, {"sid": "s"})
    clock.now += 1
    await sessions.get(ALICE, "s")
    await pragma(store, "query_only = 1")

    await sessions.suspend()

    assert session.calls == ["start", "suspend"]
    assert "the last accesses to sessions are not kept" in caplog.text


@pytest.mark.parametrize("fails", ["restore", "orbit restore"], ids=["bug", "refusal"])
async def test_a_session_that_does_not_come_back_is_tried_again_for_its_owner(
    sessions, clock, restart, caplog, fails
):
    await sessions.register(ALICE, {"sid": "good"})
    clock.now += 1
    await sessions.register(ALICE, {"sid": "bad", "fails": fails})

    found = await restart()

    assert "session bad does not come back" in caplog.text
    assert len(found) == 1
    assert found.visible_to(ALICE) == ["good", "bad"]
    for principal, error in ((BOB, Forbidden), (ALICE, (OrbitError, ValueError))):
        with pytest.raises(error):
            await found.get(principal, "bad")
        with pytest.raises(error):
            await found.register(principal, {"sid": "bad"})


async def test_a_session_that_comes_back_late_is_whole(sessions, restart, monkeypatch):
    await sessions.register(ALICE, {"sid": "s", "title": "kept", "fails": "restore"})
    found = await restart()
    monkeypatch.setattr(NotesSession, "_go_through", _go_well)

    assert (await found.get(ALICE, "s")).title == "kept"
    assert found.visible_to(ALICE) == ["s"]
    assert len(found) == 1


async def _go_well(self: NotesSession, step: str) -> None:
    self.calls.append(step)


async def test_a_session_that_does_not_come_back_can_be_given_up(sessions, restart):
    await sessions.register(ALICE, {"sid": "s", "fails": "restore"})
    found = await restart()
    with pytest.raises(Forbidden):
        await found.unregister(BOB, "s")

    await found.unregister(ALICE, "s")

    with pytest.raises(UnknownSession):
        await found.get(ALICE, "s")
    assert (await restart()).visible_to(ALICE) == []


async def test_a_record_that_cannot_be_read_harms_no_other(sessions, store, restart, caplog):
    await sessions.register(ALICE, {"sid": "good"})
    await store.space("sessions").put("bad", {"sid": 1})

    found = await restart()

    assert found.visible_to(ADMIN) == ["good"]
    assert "session bad does not come back" in caplog.text


async def test_the_oldest_expired_ids_are_forgotten_first(sessions, clock, restart, monkeypatch):
    monkeypatch.setattr(sessions_module, "EXPIRED_KEPT", 2)
    for sid in ("c", "b"):
        await sessions.register(ALICE, {"sid": sid})
        clock.now += IDLE
        await sessions.sweep()
    found = await restart()
    await found.register(ALICE, {"sid": "a"})
    clock.now += IDLE

    await found.sweep()

    for table in (found, await restart()):
        with pytest.raises(UnknownSession):
            await table.get(ALICE, "c")
        for sid in ("b", "a"):
            with pytest.raises(SessionExpired):
                await table.get(ALICE, sid)


async def test_an_id_is_not_given_twice(sessions, monkeypatch):
    taken = iter(["00000000", "00000000", "00000001"])
    monkeypatch.setattr(sessions_module.secrets, "token_hex", lambda size: next(taken))

    made = [await sessions.register(ALICE, {}) for _ in range(2)]

    assert [session.sid for session in made] == ["session.00000000", "session.00000001"]


async def test_setting_the_hosts_clock_ends_no_session(store, monkeypatch):
    found = Sessions(build, store.space("sessions"), IDLE)
    await found.register(ALICE, {"sid": "s"})
    monkeypatch.setattr(sessions_module.time, "time", lambda: 1e12)

    await found.sweep()

    assert len(found) == 1


SIDS = st.sampled_from(["a", "b", "default"])
PRINCIPALS = st.sampled_from([ALICE, BOB, ADMIN])
POLICIES = st.sampled_from([{}, {"ttl": 10}, {"lifetime": "persistent"}])


@attrs.define
class Modelled:
    owner: str | None
    policy: dict[str, Any]
    touched: float

    def is_over(self, now: float) -> bool:
        limit = self.policy.get("ttl", None if self.policy else IDLE)
        return self.owner is not None and limit is not None and now - self.touched >= limit


class SessionsMachine(StoreMachine):
    """Compare the sessions with a small model, across sweeps and restarts."""

    @initialize()
    def open(self) -> None:
        self.clock = Clock()
        self.live: dict[str, Modelled] = {}
        self.expired: dict[str, str | None] = {}
        self.open_store()
        self.sessions = self.portal.call(partial(sessions_in, self.store, self.clock))

    def outcome(self, function: Any, *args: Any) -> int:
        try:
            self.portal.call(function, *args)
        except OrbitError as error:
            return error.status_code
        return 200

    def expected(self, principal: Principal, sid: str) -> int:
        found = self.live.get(sid)
        if found is not None and found.is_over(self.clock.now) and principal.may_use(found.owner):
            self.expired[sid] = self.live.pop(sid).owner
        owners = {sid: found.owner for sid, found in self.live.items()} | self.expired
        if sid not in owners:
            return 404
        if not principal.may_use(owners[sid]):
            return 403
        return 410 if sid in self.expired else 200

    def touch(self, sid: str) -> None:
        self.live[sid].touched = self.clock.now

    @rule(principal=PRINCIPALS, sid=SIDS, policy=POLICIES)
    def register(self, principal: Principal, sid: str, policy: dict[str, Any]) -> None:
        expected = self.expected(principal, sid)
        wrong = policy == {"ttl": 10} if sid == "default" else policy != self.policy_of(sid, policy)
        if expected in (200, 404, 410):
            if expected == 200:
                self.touch(sid)
            elif not wrong:
                owner = None if sid == "default" else self.expired.pop(sid, principal.owner)
                self.live[sid] = Modelled(owner, policy, self.clock.now)
            expected = 409 if wrong else 200

        assert self.outcome(self.sessions.register, principal, {"sid": sid, **policy}) == expected

    def policy_of(self, sid: str, fallback: dict[str, Any]) -> dict[str, Any]:
        return self.live[sid].policy if sid in self.live else fallback

    @rule(principal=PRINCIPALS, sid=SIDS)
    def get(self, principal: Principal, sid: str) -> None:
        expected = self.expected(principal, sid)
        if expected == 404 and sid == "default":
            self.live[sid] = Modelled(None, {}, self.clock.now)
            expected = 200
        if expected == 200:
            self.touch(sid)

        assert self.outcome(self.sessions.get, principal, sid) == expected

    @rule(principal=PRINCIPALS, sid=SIDS)
    def unregister(self, principal: Principal, sid: str) -> None:
        expected = self.expected(principal, sid)
        if expected == 200:
            del self.live[sid]

        assert self.outcome(self.sessions.unregister, principal, sid) == expected

    @rule(seconds=st.sampled_from([1, 9, 10, IDLE - 1, IDLE]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def sweep(self) -> None:
        self.portal.call(self.sessions.sweep)
        for sid in [sid for sid, found in self.live.items() if found.is_over(self.clock.now)]:
            self.expired[sid] = self.live.pop(sid).owner

    @rule()
    def restart(self) -> None:
        self.sweep()
        self.portal.call(self.sessions.suspend)
        self.sessions = self.portal.call(partial(sessions_in, self.store, self.clock))
        self.portal.call(self.sessions.restore)

    @invariant()
    def everybody_sees_its_own(self) -> None:
        for principal in (ALICE, BOB, ADMIN):
            seen = [sid for sid, found in self.live.items() if principal.may_use(found.owner)]
            assert sorted(self.sessions.visible_to(principal)) == sorted(seen)


TestSessionsMachine = SessionsMachine.TestCase
TestSessionsMachine.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
