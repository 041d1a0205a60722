import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from orbit_staging import (
    AlreadyThere,
    PathRefused,
    StagingClient,
    TicketRefused,
    UnknownFile,
    tickets,
)
from orbit_staging.client import SessionPlace

from orbit_core.errors import Forbidden, UnknownEndpoint
from orbit_core.testing import ALICE, BOB, Deployment, open_deployment

pytestmark = pytest.mark.anyio

TARGET = "orbit_staging.plugin:StagingPlugin"
MIB = 1024 * 1024
CONTENT = os.urandom(5 * MIB + 3)


async def open_staging(bridge: Any, endpoint: str, **session: Any) -> StagingClient:
    found = await bridge.get_endpoint_client(endpoint).get_plugin("staging", **session)
    assert isinstance(found, StagingClient)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.bin"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
async def pair(
    deployment: Deployment, source: Path
) -> AsyncIterator[tuple[StagingClient, StagingClient]]:
    async with deployment.client() as bridge:
        a, b = await open_staging(bridge, "a"), await open_staging(bridge, "b")
        await a.put(source)
        yield a, b


async def test_a_file_goes_across(pair: tuple[StagingClient, StagingClient]) -> None:
    a, b = pair
    news: list[tuple[int, int]] = []
    found = await a.copy("source.bin", b, "d/copy", progress=lambda *args: news.append(args))
    assert found["path"].endswith("/files/d/copy")
    assert Path(found["path"]).read_bytes() == CONTENT
    assert news[-1] == (len(CONTENT), len(CONTENT))
    assert found == {k: v for k, v in (await b.stat("d/copy", True)).items() if k in found}


async def test_an_empty_file_goes_across_under_its_own_name(
    pair: tuple[StagingClient, StagingClient], tmp_path: Path
) -> None:
    a, b = pair
    (tmp_path / "empty").touch()
    await a.put(tmp_path / "empty")
    assert (await a.copy("empty", b))["path"].endswith("/files/empty")
    assert (await a.copy("empty", a, "again"))["size"] == 0


async def test_a_copy_replaces_nothing_unless_told_to(
    pair: tuple[StagingClient, StagingClient],
) -> None:
    a, b = pair
    await a.copy("source.bin", b)
    with pytest.raises(AlreadyThere):
        await a.copy("source.bin", b)
    await a.copy("source.bin", b, overwrite=True)


async def test_what_is_not_there_is_not_copied(
    pair: tuple[StagingClient, StagingClient],
) -> None:
    a, b = pair
    with pytest.raises(UnknownFile):
        await a.copy("nowhere", b)
    with pytest.raises(PathRefused):
        await a.copy("source.bin", b, "/etc/passwd")


async def test_a_copy_goes_on_after_either_endpoint_was_away(
    deployment: Deployment, pair: tuple[StagingClient, StagingClient], tmp_path: Path
) -> None:
    """Restart the source in the middle of a copy, then the destination of another."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(64 * MIB)
    for restarted in ("source", "target"):
        begun, back = anyio.Event(), f"{restarted}.bin"

        def see(done: int, total: int, begun: anyio.Event = begun) -> None:
            if done:
                begun.set()

        async with deployment.client() as bridge, anyio.create_task_group() as group:
            async with deployment.endpoint("c", [TARGET]):
                c = await open_staging(bridge, "c", sid=restarted)
                there, here = (c, pair[0]) if restarted == "source" else (pair[0], c)
                await there.put(large, back)
                group.start_soon(there.copy, back, here, f"copy of {back}", False, see)
                await begun.wait()
            async with deployment.endpoint("c", [TARGET]):
                names: list[str] = []
                with anyio.fail_after(120):
                    while f"copy of {back}" not in names:
                        await anyio.sleep(0.05)
                        names = [entry["name"] for entry in (await here.list())["entries"]]
                assert (await here.stat(f"copy of {back}"))["size"] == 64 * MIB
                group.cancel_scope.cancel()


class Site:
    """Hold two people's clients of one shared endpoint, and of one of Alice's own."""

    def __init__(self, alice: Any, bob: Any) -> None:
        self.alice, self.bob = alice, bob


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Run Alice's endpoints: ``shared`` takes everybody's calls, ``private`` hers alone.

    At both, only she may use the directory ``secrets``.
    """
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_bytes(b"secret")
    settings = {"staging": {"roots": {str(tmp_path / "secrets"): ["alice"]}}}
    async with (
        open_deployment(tmp_path / "state") as deployment,
        deployment.endpoint("shared", [TARGET], shared=True, settings=settings),
        deployment.endpoint("other", [TARGET], shared=True, settings=settings),
        deployment.endpoint("private", [TARGET], settings=settings),
        deployment.client(ALICE) as alice,
        deployment.client(BOB) as bob,
    ):
        yield Site(alice, bob)


def ticketless(place: SessionPlace, **body: str) -> tuple[str, dict[str, str]]:
    wanted = {"endpoint": "private", "plugin": "staging", "ticket": "none", "path": "stolen"}
    return f"/{place.endpoint}/{place.plugin}/copy/{place.sid}", {**wanted, **body}


async def copied(bridge: Any, url: str, body: dict[str, str]) -> dict[str, Any]:
    reply = await bridge.http.post(url, json=body)
    return dict(json.loads(reply.text.splitlines()[-1]))


async def test_nobody_makes_an_endpoint_fetch_what_only_its_owner_may_read(
    site: Site, tmp_path: Path
) -> None:
    """Alice's shared endpoint may call her private one; that gives Bob, whom it serves, nothing."""
    secret = str(tmp_path / "secrets" / "key")
    alice = await open_staging(site.alice, "private")
    grant = await alice._ask("grant", {"path": secret, "endpoint": "other"})
    bob = await open_staging(site.bob, "shared", sid="bobs")
    with pytest.raises(Forbidden):
        await open_staging(site.bob, "private")
    for ticket in ("", "none", grant["ticket"]):
        url, body = ticketless(bob.place, ticket=ticket)
        assert (await copied(site.bob, url, body))["code"] == "ticket_refused"
    assert (await bob.list())["entries"] == []
    with pytest.raises(PathRefused):
        await bob.copy(secret, await open_staging(site.bob, "other"))


async def test_a_ticket_is_for_its_endpoint_alone_and_for_no_person(
    site: Site, tmp_path: Path
) -> None:
    alice = await open_staging(site.alice, "shared")
    secret = str(tmp_path / "secrets" / "key")
    grant = await alice._ask("grant", {"path": secret, "endpoint": "other"})
    headers = {"Orbit-Ticket": grant["ticket"]}
    for bridge in (site.alice, site.bob):
        for route in ("granted", "granted/stat"):
            reply = await bridge.http.get(f"/shared/staging/{route}", headers=headers)
            assert (reply.status_code, reply.json()["code"]) == (403, "ticket_refused")


async def test_who_may_read_a_file_may_have_it_copied(site: Site, tmp_path: Path) -> None:
    secret = str(tmp_path / "secrets" / "key")
    for target in ("shared", "private"):
        alice, to = await open_staging(site.alice, "other"), await open_staging(site.alice, target)
        found = await alice.copy(secret, to)
        assert Path(found["path"]).read_bytes() == b"secret"


async def test_a_copy_to_somebody_elses_session_is_refused(site: Site, source: Path) -> None:
    bob = await open_staging(site.bob, "shared")
    await bob.put(source)
    alice = await open_staging(site.alice, "other", sid="alices")
    url, body = ticketless(alice.place)
    reply = await site.bob.http.post(url, json=body)
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    with pytest.raises(Forbidden):
        await bob.copy("source.bin", alice)


async def test_a_ticket_ends_with_the_session_it_was_asked_for_in(site: Site, source: Path) -> None:
    bob = await open_staging(site.bob, "shared", sid="bobs")
    await bob.put(source)
    grant = await bob._ask("grant", {"path": "source.bin", "endpoint": "other"})
    to = await open_staging(site.bob, "other")
    await bob.unregister_session()
    url, body = ticketless(to.place, endpoint="shared", ticket=grant["ticket"])
    assert (await copied(site.bob, url, body))["code"] == "unknown_session"


async def test_a_ticket_expires(site: Site, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "LIFE", 0.0)
    monkeypatch.setattr(StagingClient, "patience", 0.0)
    bob = await open_staging(site.bob, "shared")
    await bob.put(source)
    with pytest.raises(TicketRefused, match="this ticket is not valid here"):
        await bob.copy("source.bin", await open_staging(site.bob, "other"))


async def test_only_so_many_tickets_are_kept(
    site: Site, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tickets, "MOST", 1)
    bob = await open_staging(site.bob, "shared")
    await bob.put(source)
    wanted = {"path": "source.bin", "endpoint": "other"}
    first, second = await bob._ask("grant", wanted), await bob._ask("grant", wanted)
    to = await open_staging(site.bob, "other")
    codes = []
    for grant in (first, second):
        url, body = ticketless(to.place, endpoint="shared", ticket=grant["ticket"])
        codes.append((await copied(site.bob, url, body)).get("code", "copied"))
    assert codes == ["ticket_refused", "copied"]


@pytest.mark.parametrize("body", [{"endpoint": "../x"}, {"plugin": "a/b"}], ids=["to", "plugin"])
async def test_names_in_a_copy_are_names(site: Site, body: dict[str, str]) -> None:
    bob = await open_staging(site.bob, "shared")
    url, wanted = ticketless(bob.place, **body)
    assert (await copied(site.bob, url, wanted))["code"] == "invalid_name"


async def test_an_endpoint_that_is_away_is_waited_for_and_given_up(
    site: Site, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StagingClient, "patience", 0.3)
    bob = await open_staging(site.bob, "shared")
    await bob.put(source)

    class Gone:
        place = SessionPlace("gone", "staging", "x")

    with pytest.raises(UnknownEndpoint):
        await bob.copy("source.bin", Gone())
