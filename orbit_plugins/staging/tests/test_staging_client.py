import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs
import httpx
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from orbit_staging import (
    AlreadyThere,
    ChecksumMismatch,
    FileChanged,
    PathRefused,
    StagingClient,
    UnknownFile,
    WrongKind,
)

from orbit_core import BridgeClient
from orbit_core.client import AsyncBridgeClient
from orbit_core.errors import ConnectionLost, UnknownEndpoint
from orbit_core.testing import Deployment

pytestmark = pytest.mark.anyio

TARGET = "orbit_staging.plugin:StagingPlugin"
MIB = 1024 * 1024


@attrs.define(eq=False)
class Cutter:
    """Pass bytes on until so many have gone one way, then cut that connection; once for each.

    ``up`` and ``down`` are the counts at which to cut, what goes to the bridge and what comes back.
    """

    port: int
    url: str = ""
    up: list[int] = attrs.field(factory=list)
    down: list[int] = attrs.field(factory=list)
    cuts: int = 0

    async def serve(self, client: SocketStream) -> None:
        async with (
            client,
            await anyio.connect_tcp("127.0.0.1", self.port) as bridge,
            anyio.create_task_group() as group,
        ):
            group.start_soon(self._pass, client, bridge, self.up, group)
            group.start_soon(self._pass, bridge, client, self.down, group)

    async def _pass(
        self, source: ByteStream, sink: ByteStream, at: list[int], group: anyio.abc.TaskGroup
    ) -> None:
        passed = 0
        try:
            while True:
                data = await source.receive()
                if at and passed + len(data) > at[0]:
                    await sink.send(data[: at.pop(0) - passed])
                    self.cuts += 1
                    break
                await sink.send(data)
                passed += len(data)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        group.cancel_scope.cancel()


@asynccontextmanager
async def open_cutter(url: str) -> AsyncIterator[Cutter]:
    """Open one before the bridge at ``url``."""
    cutter = Cutter(int(url.rpartition(":")[2]))
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        cutter.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        group.start_soon(listener.serve, cutter.serve)
        yield cutter
        group.cancel_scope.cancel()


async def open_staging(bridge: Any, endpoint: str, **session: Any) -> StagingClient:
    found = await bridge.get_endpoint_client(endpoint).get_plugin("staging", **session)
    assert isinstance(found, StagingClient)
    return found


@pytest.fixture
async def staging(deployment: Deployment) -> AsyncIterator[StagingClient]:
    async with deployment.client() as bridge:
        yield await open_staging(bridge, "a")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.bin"
    path.write_bytes(os.urandom(5 * MIB + 1))
    return path


async def test_a_file_goes_there_and_back(
    staging: StagingClient, source: Path, tmp_path: Path, sha256: Callable[[bytes], str]
) -> None:
    content = source.read_bytes()
    up: list[tuple[int, int]] = []
    down: list[tuple[int, int]] = []
    stored = await staging.put(source, "dir/", progress=lambda *news: up.append(news))
    assert stored["path"].endswith("/files/dir/source.bin")
    assert (stored["size"], stored["sha256"]) == (len(content), sha256(content))
    found = await staging.get("dir/source.bin", tmp_path / "back", False, lambda *n: down.append(n))
    expected = {"path": str(tmp_path / "back"), "size": len(content), "sha256": sha256(content)}
    assert found == expected
    assert (tmp_path / "back").read_bytes() == content
    for news in (up, down):
        assert [news[0], news[-1]] == [(0, len(content)), (len(content), len(content))]
        assert news == sorted(news)


async def test_names_are_taken_from_the_source(
    staging: StagingClient, source: Path, tmp_path: Path
) -> None:
    assert (await staging.put(source))["path"].endswith("/files/source.bin")
    (tmp_path / "into").mkdir()
    found = await staging.get("source.bin", tmp_path / "into")
    assert found["path"] == str(tmp_path / "into" / "source.bin")


async def test_an_empty_file_goes_there_and_back(staging: StagingClient, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert (await staging.put(tmp_path / "empty"))["size"] == 0
    await staging.get("empty", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b""


async def test_odd_names_are_taken_as_they_are(staging: StagingClient, tmp_path: Path) -> None:
    for name in ("a b", "100%", "%2e", "q?x=1#y", "ä€", "~x", "-"):
        (tmp_path / name).write_text(name)
        await staging.put(tmp_path / name)
        await staging.get(name, tmp_path / "back", overwrite=True)
        assert (tmp_path / "back").read_text() == name
    assert len((await staging.list())["entries"]) == 7


async def test_nothing_is_overwritten_unless_told_to(
    staging: StagingClient, source: Path, tmp_path: Path
) -> None:
    await staging.put(source)
    with pytest.raises(AlreadyThere, match=r"source.bin is there already"):
        await staging.put(source)
    with pytest.raises(AlreadyThere, match=r"source.bin is there already"):
        await staging.get("source.bin", source)
    await staging.put(source, overwrite=True)
    await staging.get("source.bin", source, overwrite=True)


async def test_errors_keep_their_class(
    staging: StagingClient, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnknownFile, match="there is nothing at"):
        await staging.get("nowhere", tmp_path)
    with pytest.raises(WrongKind):
        await staging.get("", tmp_path)
    with pytest.raises(PathRefused):
        await staging.put(source, "/etc/passwd")
    with pytest.raises(UnknownFile):
        await staging.put(tmp_path / "nowhere")
    with pytest.raises(WrongKind):
        await staging.put(tmp_path)
    await staging.put(source)
    with pytest.raises(UnknownFile):
        await staging.get("source.bin", tmp_path / "no" / "such" / "folder")


async def test_directories_are_looked_after(staging: StagingClient, source: Path) -> None:
    await staging.mkdir("d/e")
    await staging.put(source, "d/x")
    found = await staging.list("d")
    assert [entry["name"] for entry in found["entries"]] == ["e", "x"]
    await staging.delete("d", recursive=True)
    assert (await staging.list())["entries"] == []
    assert (await staging.health())["status"] == "healthy"
    assert (await staging.discard("x"))["path"].endswith("/x")


async def test_a_long_listing_comes_in_pages(
    staging: StagingClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number in range(5):
        (tmp_path / "x").write_text("x")
        await staging.put(tmp_path / "x", f"f{number}")
    ask = staging._ask

    async def ask_for_two(route: str, body: dict[str, Any]) -> dict[str, Any]:
        return await ask(route, {**body, "limit": 2})

    monkeypatch.setattr(staging, "_ask", ask_for_two)
    names = [entry["name"] for entry in (await staging.list())["entries"]]
    assert names == ["f0", "f1", "f2", "f3", "f4"]


async def test_a_client_without_a_session_says_so(staging: StagingClient, source: Path) -> None:
    await staging.unregister_session()
    with pytest.raises(RuntimeError, match="no active session"):
        await staging.put(source)


CUTS = [1, 1000, 70_000, MIB + 7, 3 * MIB, 5 * MIB]


async def test_transfers_that_are_cut_again_and_again_arrive(
    deployment: Deployment, source: Path, tmp_path: Path
) -> None:
    async with (
        open_cutter(deployment.url) as cutter,
        AsyncBridgeClient(cutter.url, token=await deployment.token()) as bridge,
    ):
        staging = await open_staging(bridge, "a")
        cutter.up[:] = list(CUTS)
        await staging.put(source)
        assert cutter.cuts >= 4
        cutter.up.clear()
        before = cutter.cuts
        cutter.down[:] = list(CUTS)
        await staging.get("source.bin", tmp_path / "back")
        assert cutter.cuts - before >= 4
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "source.bin", "state"]


async def test_a_transfer_given_up_goes_on_when_called_again(
    deployment: Deployment, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StagingClient, "patience", 0.0)
    news: list[int] = []
    async with (
        open_cutter(deployment.url) as cutter,
        AsyncBridgeClient(cutter.url, token=await deployment.token()) as bridge,
    ):
        staging = await open_staging(bridge, "a", sid="lab")
        cutter.up[:] = [3 * MIB]
        with pytest.raises(ConnectionLost):
            await staging.put(source)
        first = await open_staging(bridge, "a", sid="lab")
        await first.put(source, progress=lambda done, total: news.append(done))
        assert news[0] > MIB
        cutter.down[:] = [3 * MIB]
        with pytest.raises(ConnectionLost):
            await staging.get("source.bin", tmp_path / "back")
        news.clear()
        await first.get("source.bin", tmp_path / "back", progress=lambda d, t: news.append(d))
        assert news[0] > MIB
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


async def test_a_transfer_to_an_endpoint_that_is_gone_is_given_up(
    deployment: Deployment, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StagingClient, "patience", 0.5)
    async with deployment.client() as bridge:
        async with deployment.endpoint("c", [TARGET]):
            staging = await open_staging(bridge, "c", sid="lab")
            await staging.put(source)
        with pytest.raises(UnknownEndpoint):
            await staging.put(source, "y")


async def test_an_endpoint_that_comes_back_meanwhile_goes_on(
    deployment: Deployment, source: Path, tmp_path: Path
) -> None:
    half = anyio.Event()

    def see(done: int, total: int) -> None:
        if done > total / 2:
            half.set()

    async with deployment.client() as bridge, anyio.create_task_group() as group:
        async with deployment.endpoint("c", [TARGET]):
            staging = await open_staging(bridge, "c", sid="lab")
            group.start_soon(staging.put, source, "", False, see)
            await half.wait()
        async with deployment.endpoint("c", [TARGET]):
            with anyio.fail_after(60):
                while not (await staging.list())["entries"]:
                    await anyio.sleep(0.05)
            await staging.get("source.bin", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


async def test_a_file_that_changes_as_it_is_sent_is_not_sent(
    staging: StagingClient, source: Path
) -> None:
    def grow(done: int, total: int) -> None:
        os.truncate(source, 6 * MIB)

    def shrink(done: int, total: int) -> None:
        os.truncate(source, 10)

    with pytest.raises(FileChanged, match="changed while it was sent"):
        await staging.put(source, progress=grow)
    with pytest.raises(FileChanged, match="became shorter while it was sent"):
        await staging.put(source, progress=shrink)
    assert (await staging.list())["entries"] == []


async def test_a_file_that_changes_as_it_comes_is_not_kept(
    staging: StagingClient, source: Path, tmp_path: Path
) -> None:
    stored = await staging.put(source)

    def grow(done: int, total: int) -> None:
        os.truncate(stored["path"], 6 * MIB)

    with pytest.raises(FileChanged):
        await staging.get("source.bin", tmp_path / "back", progress=grow)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.bin", "state"]


async def test_what_is_damaged_on_its_way_is_thrown_away(
    staging: StagingClient, source: Path, tmp_path: Path
) -> None:
    await staging.put(source)

    def stop(done: int, total: int) -> None:
        if done > MIB:
            raise KeyError

    with pytest.raises(KeyError):
        await staging.get("source.bin", tmp_path / "back", progress=stop)
    (part,) = tmp_path.glob(".*.orbit-part")
    with part.open("r+b") as file:
        file.write(b"damage")
    with pytest.raises(ChecksumMismatch, match=r"what arrived of .*source.bin has the SHA-256"):
        await staging.get("source.bin", tmp_path / "back")
    await staging.get("source.bin", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


CONTENT = b"0123456789"


async def streamed(content: bytes) -> AsyncIterator[bytes]:
    yield content


def liar(**answers: Any) -> StagingClient:
    """Return a client of an endpoint that answers what it likes."""
    status = {"path": "/evil/.profile", "type": "file", "size": 10, "modified": 0.0, "etag": '"1"'}
    replies = {
        "stat": lambda: httpx.Response(200, json={**status, "sha256": None}),
        "sum": lambda: httpx.Response(200, json={**status, "sha256": "0" * 64}),
        "file": lambda: httpx.Response(200, content=streamed(CONTENT)),
        **answers,
    }

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return replies["file"]()
        is_sum = json.loads(request.content).get("checksum")
        return replies["sum" if is_sum else "stat"]()

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://bridge")
    client = StagingClient(http, "/evil/staging", None, "evil", "staging")
    client._sid = "lab"
    return client


async def test_an_endpoint_does_not_choose_the_name_of_a_file_here(tmp_path: Path) -> None:
    right = hashlib.sha256(CONTENT).hexdigest()
    whole = {"path": "/evil/.profile", "etag": '"1"', "sha256": right}
    client = liar(sum=lambda: httpx.Response(200, json=whole))
    found = await client.get("data/x", tmp_path)
    assert found["path"] == str(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ({}, ChecksumMismatch),
        ({"file": lambda: httpx.Response(200, content=streamed(CONTENT * 9))}, FileChanged),
        ({"file": lambda: httpx.Response(200, content=streamed(b""))}, FileChanged),
        ({"sum": lambda: httpx.Response(200, json={"path": "", "etag": "other"})}, FileChanged),
    ],
    ids=["another sum", "longer", "shorter", "another file"],
)
async def test_what_is_not_as_it_was_said_is_not_kept(
    tmp_path: Path, answers: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await liar(**answers).get("x", tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_a_connection_that_breaks_in_an_answer_is_told(tmp_path: Path) -> None:
    def fail() -> httpx.Response:
        raise httpx.ReadError("broken pipe")

    with pytest.raises(ConnectionLost, match="broken pipe"):
        await liar(stat=fail).stat("x")


async def test_a_copy_without_a_result_is_tried_again_and_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(StagingClient, "patience", 0.0)
    grant = {"ticket": "t", "expires": 1.0}
    client = liar(stat=lambda: httpx.Response(200, json=grant))

    def answer(request: httpx.Request) -> httpx.Response:
        is_grant = "/grant/" in request.url.path
        return httpx.Response(200, json=grant) if is_grant else httpx.Response(200, content=b"")

    client._http = httpx.AsyncClient(
        transport=httpx.MockTransport(answer), base_url="http://bridge"
    )
    with pytest.raises(ConnectionLost, match="the copy to evil ended without a result"):
        await client.copy("x", client)


async def test_blocking_clients_do_the_same(
    deployment: Deployment, source: Path, tmp_path: Path
) -> None:
    token = await deployment.token()

    def work() -> list[int]:
        seen: list[int] = []
        with BridgeClient(deployment.url, token=token) as bridge:
            a, b = (bridge.get_endpoint_client(name).get_plugin("staging") for name in "ab")
            a.put(source, progress=lambda done, total: seen.append(done))
            a.copy("source.bin", b)
            b.get("source.bin", tmp_path / "back")
        return seen

    with anyio.fail_after(60):
        seen = await anyio.to_thread.run_sync(work)
    assert seen[-1] == 5 * MIB + 1
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
