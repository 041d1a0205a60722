import base64
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orbit_core.models import HostRole
from orbit_core.testing import ADMIN, ALICE, BOB, Deployment, open_plugin
from orbit_core.web import ResponseAborted

pytestmark = pytest.mark.anyio

Fault = Callable[[httpx.Response], tuple[int, str]]
Sum = Callable[[bytes], str]

TARGET = "orbit_staging.plugin:StagingPlugin"


def digest(sha256: str) -> str:
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


async def test_a_file_goes_up_and_comes_down(user: Any, sha256: Sum) -> None:
    content = os.urandom(3_000_000)
    reply = await user.send("run/1/data.bin", content)
    path = user.folder / "run" / "1" / "data.bin"
    assert reply.json() == {"path": str(path), "size": len(content), "sha256": sha256(content)}
    assert path.read_bytes() == content
    found = await user.read("run/1/data.bin")
    assert found.content == content
    assert found.headers["content-type"] == "application/octet-stream"
    assert found.headers["content-disposition"] == "attachment"
    assert found.headers["content-length"] == "3000000"
    assert user.uploads == []


async def test_an_empty_file_is_a_file(user: Any, sha256: Sum) -> None:
    assert (await user.send("empty", b"")).json()["sha256"] == sha256(b"")
    found = await user.read("empty")
    assert (found.status_code, found.content) == (200, b"")


async def test_the_absolute_path_of_a_file_names_it_too(user: Any) -> None:
    path = (await user.send("x", b"here")).json()["path"]
    assert (await user.read(path.replace("/", "%2F"))).content == b"here"
    assert (await user.done("stat", path=path))["size"] == 4


async def test_nothing_is_replaced_without_being_told_to(user: Any, fault: Fault) -> None:
    await user.send("x", b"first")
    assert fault(await user.send("x", b"second")) == (409, "already_there")
    assert (user.folder / "x").read_bytes() == b"first"
    assert (await user.send("x", b"third", overwrite="true")).status_code == 200
    assert (user.folder / "x").read_bytes() == b"third"


async def test_a_directory_is_no_file(user: Any, fault: Fault) -> None:
    await user.done("mkdir", path="d")
    assert fault(await user.send("d", b"x", overwrite="true")) == (409, "wrong_kind")
    assert fault(await user.read("d")) == (409, "wrong_kind")
    await user.send("f", b"x")
    assert fault(await user.send("f/x", b"x")) == (409, "wrong_kind")
    assert fault(await user.ask("list", path="f")) == (409, "wrong_kind")
    assert fault(await user.ask("mkdir", path="f")) == (409, "wrong_kind")


async def test_a_sum_that_is_wrong_leaves_nothing(user: Any, fault: Fault, sha256: Sum) -> None:
    right, wrong = ({"Repr-Digest": digest(sha256(text))} for text in (b"x", b"y"))
    assert fault(await user.send("a", b"x", wrong)) == (422, "checksum_mismatch")
    assert not (user.folder / "a").exists()
    assert user.uploads == []
    assert (await user.send("a", b"x", right)).status_code == 200


@pytest.mark.parametrize("field", ["sha-256=:eA==:", "sha-256=:A:"])
async def test_a_sum_that_is_none_is_refused(user: Any, fault: Fault, field: str) -> None:
    assert fault(await user.send("a", b"x", {"Repr-Digest": field})) == (400, "bad_request")


async def test_a_digest_of_another_kind_is_ignored(user: Any) -> None:
    assert (await user.send("a", b"x", {"Repr-Digest": "md5=:eA==:"})).status_code == 200


async def test_a_partial_put_by_header_is_refused(user: Any, fault: Fault) -> None:
    reply = await user.send("a", b"x", {"Content-Range": "bytes 0-0/9"})
    assert fault(reply) == (400, "bad_request")


async def test_a_body_that_breaks_leaves_nothing(user: Any) -> None:
    async with anyio.create_task_group() as group:

        async def body() -> AsyncIterator[bytes]:
            yield b"x" * 2_000_000
            group.cancel_scope.cancel()
            await anyio.sleep_forever()

        group.start_soon(user.send, "a", body())
    assert list(user.folder.iterdir()) == []
    assert user.uploads == []


async def test_a_file_that_cannot_fit_is_refused_at_once(user: Any, fault: Fault) -> None:
    reply = await user.send("a", iter_of(b"x"), {"Content-Length": str(10**17)})
    assert fault(reply) == (507, "disk_full")
    assert user.uploads == []


async def iter_of(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.binary(max_size=60), st.integers(0, 70), st.integers(0, 70) | st.none())
async def test_a_range_is_those_bytes(
    user: Any, content: bytes, first: int, last: int | None
) -> None:
    await user.send("r", content, overwrite="true")
    end = "" if last is None else str(last)
    found = await user.read("r", Range=f"bytes={first}-{end}")
    stop = len(content) if last is None else last + 1
    if last is not None and last < first:
        assert (found.status_code, found.content) == (200, content)
    elif first >= len(content):
        assert found.status_code == 416
        assert found.json()["code"] == "range_not_satisfiable"
    else:
        assert (found.status_code, found.content) == (206, content[first:stop])
        shown = f"bytes {first}-{min(stop, len(content)) - 1}/{len(content)}"
        assert found.headers["content-range"] == shown


async def test_a_head_has_no_body(user: Any) -> None:
    await user.send("x", b"1234")
    found = await user.http.head("/staging/files/lab/x")
    assert (found.headers["content-length"], found.content) == ("4", b"")


async def test_a_file_that_changed_is_not_continued(user: Any, fault: Fault) -> None:
    await user.send("x", b"1234")
    etag = (await user.read("x")).headers["etag"]
    assert (await user.read("x", If_Match=etag, Range="bytes=2-")).content == b"34"
    assert (await user.read("x", If_Range=etag, Range="bytes=2-")).content == b"34"
    await user.send("x", b"5678", overwrite="true")
    assert fault(await user.read("x", If_Match=etag)) == (412, "file_changed")
    whole = await user.read("x", If_Range=etag, Range="bytes=2-")
    assert (whole.status_code, whole.content) == (200, b"5678")
    assert (await user.read("x", If_Match="*")).content == b"5678"


async def test_a_file_that_shrinks_meanwhile_is_cut(user: Any) -> None:
    await user.send("x", bytes(3_000_000))
    path = user.folder / "x"
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 2:
            os.truncate(path, 10)

    scope = {
        **{"type": "http", "method": "GET", "path": "/staging/files/lab/x", "root_path": ""},
        **{"headers": [], "query_string": b"", "orbit.principal": ALICE},
    }
    with pytest.raises(ResponseAborted):
        await user.served._site(scope, None, send)
    assert all(message.get("more_body", True) for message in sent)


async def test_the_sum_of_a_file_is_known_after_it_was_sent(
    user: Any, sha256: Sum, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(2_000_000)
    await user.send("x", content)
    assert "repr-digest" not in (await user.read("x")).headers
    monkeypatch.setattr("orbit_staging.folders.SETTLED", -1.0)
    monkeypatch.setattr("orbit_staging.digests.REMEMBERED", 1)
    assert "repr-digest" not in (await user.read("x")).headers
    assert (await user.read("x")).headers["repr-digest"] == digest(sha256(content))
    assert (await user.done("stat", path="x", checksum=True))["sha256"] == sha256(content)
    await user.send("y", b"")
    assert (await user.done("stat", path="y", checksum=True))["sha256"] == sha256(b"")
    assert "repr-digest" not in (await user.read("x", Range="bytes=1-")).headers


async def test_a_file_is_described(user: Any, fault: Fault, sha256: Sum) -> None:
    await user.send("x", b"1234")
    found = await user.done("stat", path="x")
    assert found.pop("modified") == (user.folder / "x").stat().st_mtime
    assert found.pop("etag").startswith('"')
    path = str(user.folder / "x")
    assert found == {"path": path, "type": "file", "size": 4, "sha256": None}
    summed = await user.done("stat", path="x", checksum=True)
    assert summed["sha256"] == sha256(b"1234")
    top = await user.done("stat", path="")
    assert (top["path"], top["type"], top["size"]) == (str(user.folder), "dir", None)
    assert fault(await user.ask("stat", path="", checksum=True)) == (400, "invalid_path")
    assert fault(await user.ask("stat", path="y")) == (404, "unknown_file")


async def test_a_directory_is_listed_a_page_at_a_time(user: Any, fault: Fault) -> None:
    names = [f"f{number}" for number in range(7)]
    for name in names:
        await user.send(name, b"x")
    await user.done("mkdir", path="dir/below")
    found, after = [], ""
    while True:
        page = await user.done("list", path="", limit=3, after=after)
        found += [entry["name"] for entry in page["entries"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert found == ["dir", *names]
    assert fault(await user.ask("list", path="", limit=0)) == (400, "bad_request")
    assert fault(await user.ask("list", path="nowhere")) == (404, "unknown_file")


async def test_directories_are_made_and_deleted(user: Any, fault: Fault) -> None:
    path = str(user.folder / "a" / "b")
    assert await user.done("mkdir", path="a/b") == {"path": path}
    assert await user.done("mkdir", path="a/b") == {"path": path}
    await user.send("a/b/c", b"x")
    assert fault(await user.ask("delete", path="a")) == (409, "not_empty")
    assert await user.done("delete", path="a/b/c") == {"path": f"{path}/c"}
    assert await user.done("delete", path="a/b") == {"path": path}
    await user.send("a/x/y", b"x")
    await user.done("delete", path="a", recursive=True)
    assert list(user.folder.iterdir()) == []
    assert fault(await user.ask("delete", path="a")) == (404, "unknown_file")
    assert fault(await user.ask("delete", path="")) == (400, "invalid_path")


async def test_small_files_go_in_documents(user: Any, fault: Fault, sha256: Sum) -> None:
    content, path = b"\0\xff small", str(user.folder / "d" / "s")
    encoded = base64.b64encode(content).decode()
    stored = await user.done("put", filename="d/s", content=encoded)
    assert stored == {"path": path, "size": 8, "sha256": sha256(content)}
    found = await user.done("get", filename="d/s")
    assert found == {"path": path, "size": 8, "content": encoded}
    listed = await user.done("list", path="d")
    entry = {"name": "s", "type": "file", "size": 8}
    assert listed == {"path": str(user.folder / "d"), "entries": [entry], "next": None}
    again = await user.ask("put", filename="d/s", content=encoded)
    assert fault(again) == (409, "already_there")
    await user.done("put", filename="d/s", content="", overwrite=True)
    assert (await user.done("get", filename="d/s"))["size"] == 0
    assert fault(await user.ask("get", filename="none")) == (404, "unknown_file")
    assert fault(await user.ask("put", filename="e", content="%")) == (400, "invalid_body")
    assert fault(await user.ask("put", filename="e")) == (400, "invalid_body")


async def test_a_large_file_does_not_go_into_a_document(user: Any, fault: Fault) -> None:
    await user.send("x", bytes(8 * 1024 * 1024 + 1))
    assert fault(await user.ask("get", filename="x")) == (413, "body_too_large")


async def test_a_directory_without_permission_is_refused(
    user: Any, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "mkdir", refuse)
    assert fault(await user.ask("mkdir", path="d")) == (403, "path_refused")


async def test_a_disk_that_fails_is_told(
    user: Any, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "mkdir", fail)
    reply = await user.ask("mkdir", path="d")
    assert fault(reply) == (507, "storage_failed")
    assert reply.json()["detail"] == f"{user.folder / 'd'} cannot be used: Input/output error"


async def test_the_files_of_a_session_are_its_owners(user: Any, fault: Fault) -> None:
    await user.send("x", b"mine")
    bob = user.as_other(BOB, "lab")
    assert fault(await bob.read("x")) == (403, "forbidden")
    assert fault(await bob.ask("list", path="")) == (403, "forbidden")
    own = user.as_other(BOB, "bobs")
    await own.register()
    path = str(user.folder / "x")
    assert fault(await own.ask("get", filename=path)) == (403, "path_refused")
    assert (await user.as_other(ADMIN, "lab").read("x")).content == b"mine"


async def test_the_files_end_with_their_session(user: Any, fault: Fault) -> None:
    await user.send("d/x", b"mine")
    folder = user.folder
    await user.http.post("/staging/unregister_session/lab")
    assert not folder.exists()
    assert fault(await user.read("d/x")) == (404, "unknown_session")
    await user.register()
    assert (await user.done("list", path=""))["entries"] == []


async def test_files_outlive_the_endpoint(open_user: Any, tmp_path: Path) -> None:
    async with open_user(tmp_path) as user:
        await user.send("x", b"kept")
        trash = user.plugin.folders.base / "trash" / "old"
        trash.mkdir(parents=True)
    async with open_user(tmp_path) as user:
        assert (await user.read("x")).content == b"kept"
        assert not trash.exists()


async def test_a_new_session_finds_nothing_of_an_older_one(open_user: Any, tmp_path: Path) -> None:
    left = tmp_path / "plugins" / "staging" / "sessions" / "lab" / "files"
    left.mkdir(parents=True)
    (left / "secret").write_text("of somebody else")
    async with open_user(tmp_path) as user:
        assert (await user.done("list", path=""))["entries"] == []


async def test_a_root_is_open_to_those_it_is_configured_for(
    open_user: Any, fault: Fault, tmp_path: Path
) -> None:
    data, mine = tmp_path / "data", tmp_path / "mine"
    for folder in (data, mine):
        folder.mkdir()
        (folder / "x").write_bytes(b"here")
    (tmp_path / "link").symlink_to(data)
    roots = {str(tmp_path / "link"): ["*"], str(mine): ["alice"]}
    async with open_user(tmp_path / "state", roots=roots) as alice:
        bob = alice.as_other(BOB, "bobs")
        await bob.register()
        for path in (data / "x", tmp_path / "link" / "x"):
            for user in (alice, bob):
                assert (await user.done("stat", path=str(path)))["path"] == str(data / "x")
        assert (await alice.done("get", filename=str(mine / "x")))["size"] == 4
        refused = await bob.ask("get", filename=str(mine / "x"))
        assert fault(refused) == (403, "path_refused")
        assert refused.json()["detail"].endswith(f"configured to give you {data}")
        await bob.done("put", filename=f"{data}/new/y", content="eA==")
        assert (data / "new" / "y").read_bytes() == b"x"
        names = [entry["name"] for entry in (await bob.done("list", path=str(data)))["entries"]]
        assert names == ["new", "x"]


async def test_home_is_a_root_only_if_configured(
    open_user: Any, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    async with open_user(tmp_path / "a") as user:
        assert fault(await user.ask("list", path="~")) == (403, "path_refused")
    async with open_user(tmp_path / "b", roots={"~": ["alice"]}) as user:
        await user.done("put", filename="~/d/x", content="eA==")
        assert (tmp_path / "home" / "d" / "x").read_bytes() == b"x"


async def test_sessions_may_be_kept_elsewhere(open_user: Any, tmp_path: Path) -> None:
    async with open_user(tmp_path / "state", directory=str(tmp_path / "scratch")) as user:
        path = Path((await user.send("x", b"x")).json()["path"])
        assert path.is_relative_to(tmp_path / "scratch")


@pytest.mark.parametrize(
    ("roots", "reason"),
    [
        ({"data": ["*"]}, "the root 'data' of staging is no absolute path"),
        ({"/data": []}, "the root '/data' of staging is nobody's: name owners, or '*'"),
        ({"/": ["*"]}, "holds this endpoint's own state"),
    ],
    ids=["relative", "nobody's", "the state"],
)
async def test_a_root_that_cannot_be_one_is_a_fault_of_the_configuration(
    tmp_path: Path, roots: dict[str, list[str]], reason: str
) -> None:
    async with open_plugin(TARGET, tmp_path, settings={"roots": roots}) as served:
        assert served.status.state == "failed"
        assert reason in served.status.reason


async def test_a_root_that_is_missing_is_told(open_user: Any, fault: Fault, tmp_path: Path) -> None:
    async with open_user(tmp_path / "state", roots={str(tmp_path / "gone"): ["*"]}) as user:
        path = f"{tmp_path}/gone/x"
        assert fault(await user.ask("stat", path=path)) == (404, "unknown_file")
        reply = await user.ask("put", filename=path, content="eA==")
        assert fault(reply) == (404, "unknown_file")


async def test_the_bridge_does_not_serve_it(tmp_path: Path) -> None:
    async with open_plugin(TARGET, tmp_path, role=HostRole.BRIDGE) as served:
        assert served.status.state == "disabled"


async def test_files_are_described_as_bytes(deployment: Deployment) -> None:
    headers = {"Authorization": f"Bearer {await deployment.token(ADMIN)}"}
    async with httpx.AsyncClient(base_url=deployment.url, headers=headers) as admin:
        document = (await admin.get("/openapi.json")).json()
    put = document["paths"]["/a/staging/files/{sid}/{path}"]["put"]
    assert put["requestBody"] == {
        "required": False,
        "content": {"application/octet-stream": {"schema": {}}},
    }
