import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orbit_core.testing import BOB

pytestmark = pytest.mark.anyio

Fault = Callable[[httpx.Response], tuple[int, str]]
Sum = Callable[[bytes], str]

CONTENT = bytes(range(200))
in_one_plugin = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


async def arrived(user: Any, path: str = "x", upload: str = "u") -> int:
    return int((await user.done("arrived", path=path, upload=upload))["offset"])


async def send(user: Any, content: Any, offset: int = 0, **query: Any) -> httpx.Response:
    found: httpx.Response = await user.send(
        "x", content, **{"upload": "u", "offset": offset, **query}
    )
    return found


async def commit(user: Any, sha256: str, **more: Any) -> httpx.Response:
    wanted = {"path": "x", "upload": "u", "sha256": sha256, **more}
    found: httpx.Response = await user.ask("commit", **wanted)
    return found


async def send_cut(user: Any, content: bytes, offset: int) -> None:
    """Send a part of an upload and be cut before the end of the request."""
    async with anyio.create_task_group() as group:

        async def body() -> AsyncIterator[bytes]:
            yield content
            group.cancel_scope.cancel()
            await anyio.sleep_forever()

        group.start_soon(send, user, body(), offset)


@in_one_plugin
@given(st.sets(st.integers(0, len(CONTENT))))
async def test_an_upload_is_resumed_after_a_cut_at_any_byte(
    user: Any, sha256: Sum, cuts: set[int]
) -> None:
    for start, stop in pairwise([0, *sorted(cuts), len(CONTENT)]):
        assert await arrived(user) == start
        await send_cut(user, CONTENT[start:stop], start)
    assert list(user.folder.iterdir()) == []
    stored = (await commit(user, sha256(CONTENT))).json()
    assert stored == {"path": str(user.folder / "x"), "size": 200, "sha256": sha256(CONTENT)}
    assert (user.folder / "x").read_bytes() == CONTENT
    assert user.uploads == []
    await user.done("delete", path="x")


@pytest.mark.parametrize("cut", [0, 1, 100, 200])
async def test_an_upload_is_resumed_after_a_restart(
    open_user: Any, tmp_path: Path, sha256: Sum, cut: int
) -> None:
    async with open_user(tmp_path) as user:
        assert (await send(user, CONTENT[:cut])).json() == {"offset": cut}
    async with open_user(tmp_path) as user:
        assert await arrived(user) == cut
        await send(user, CONTENT[cut:], cut)
    async with open_user(tmp_path) as user:
        assert (await commit(user, sha256(CONTENT))).json()["size"] == 200


async def test_a_part_must_follow_what_has_arrived(user: Any, fault: Fault) -> None:
    await send(user, b"12345")
    for offset in (0, 4, 6):
        reply = await send(user, b"6", offset)
        assert fault(reply) == (409, "wrong_offset")
    expected = f"5 bytes of {user.folder / 'x'} have arrived: go on there, not at 6"
    assert reply.json()["detail"] == expected


async def test_a_second_request_for_one_upload_is_refused(user: Any, fault: Fault) -> None:
    async with anyio.create_task_group() as group:
        is_open = anyio.Event()

        async def body() -> AsyncIterator[bytes]:
            is_open.set()
            await anyio.sleep_forever()
            yield b""

        group.start_soon(send, user, body())
        await is_open.wait()
        second = await send(user, b"x")
        assert fault(second) == (409, "upload_busy")
        assert second.headers["retry-after"] == "1"
        assert fault(await user.ask("arrived", path="x", upload="u")) == (409, "upload_busy")
        assert fault(await commit(user, "0" * 64)) == (409, "upload_busy")
        group.cancel_scope.cancel()
    assert await arrived(user) == 0


async def test_uploads_to_one_path_do_not_mix(user: Any, fault: Fault, sha256: Sum) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]
    replies: dict[int, httpx.Response] = {}

    async def put(number: int) -> None:
        replies[number] = await user.send("x", contents[number])

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(put, number)
    won = [number for number, reply in replies.items() if reply.status_code == 200]
    assert len(won) == 1
    assert (user.folder / "x").read_bytes() == contents[won[0]]
    refused = [fault(reply) for reply in replies.values() if reply.status_code != 200]
    assert refused == [(409, "already_there")] * 7
    assert user.uploads == []


async def test_the_last_of_two_that_overwrite_wins_whole(user: Any, sha256: Sum) -> None:
    contents = {"one": b"1" * 1000, "two": b"2" * 2000}
    for upload, content in contents.items():
        await send(user, content[:500], upload=upload)
    for upload, content in contents.items():
        await send(user, content[500:], 500, upload=upload)
    for upload, content in contents.items():
        await commit(user, sha256(content), upload=upload, overwrite=True)
    assert (user.folder / "x").read_bytes() == contents["two"]


async def test_uploads_of_others_are_their_own(
    open_user: Any, fault: Fault, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    path = f"{data}/x"
    async with open_user(tmp_path / "state", roots={str(data): ["*"]}) as alice:
        bob = alice.as_other(BOB, "bobs")
        await bob.register()
        await alice.send(path.replace("/", "%2F"), b"12345", upload="u", offset=0)
        assert await arrived(bob, path) == 0
        assert fault(await bob.ask("commit", path=path, upload="u", sha256="0" * 64)) == (
            404,
            "unknown_upload",
        )
        await bob.done("discard", path=path)
        assert await arrived(alice, path) == 5
        listed = await bob.done("list", path=str(data))
        assert listed["entries"] == []
        await alice.done("discard", path=path)
        assert await arrived(alice, path) == 0


async def test_a_commit_with_another_sum_throws_the_upload_away(
    user: Any, fault: Fault, sha256: Sum
) -> None:
    await send(user, b"12345")
    reply = await commit(user, "0" * 64)
    assert fault(reply) == (422, "checksum_mismatch")
    assert reply.json()["detail"] == (
        f"{user.folder / 'x'}: the 5 bytes that arrived have the SHA-256 {sha256(b'12345')}, "
        f"not {'0' * 64}: send them again"
    )
    assert user.uploads == []
    assert fault(await commit(user, sha256(b"12345"))) == (404, "unknown_upload")


async def test_a_sum_that_is_none_commits_nothing(user: Any, fault: Fault) -> None:
    await send(user, b"12345")
    assert fault(await commit(user, "abc")) == (400, "bad_request")


async def test_a_repeated_commit_succeeds(user: Any, fault: Fault, sha256: Sum) -> None:
    await send(user, b"12345")
    first = await commit(user, sha256(b"12345"))
    assert (await commit(user, sha256(b"12345"))).json() == first.json()
    assert fault(await commit(user, sha256(b"other"))) == (404, "unknown_upload")


async def test_a_commit_replaces_nothing_unless_told_to(
    user: Any, fault: Fault, sha256: Sum
) -> None:
    await send(user, b"12345")
    await user.send("x", b"there")
    assert fault(await commit(user, sha256(b"12345"))) == (409, "already_there")
    assert (await commit(user, sha256(b"12345"), overwrite=True)).status_code == 200
    assert (user.folder / "x").read_bytes() == b"12345"


async def test_an_upload_of_what_is_there_already_is_not_kept(user: Any, sha256: Sum) -> None:
    await send(user, b"12345")
    await user.send("x", b"12345")
    assert (await commit(user, sha256(b"12345"))).status_code == 200
    assert user.uploads == []


async def test_an_upload_to_what_is_there_is_refused_before_it_is_sent(
    user: Any, fault: Fault
) -> None:
    await user.send("x", b"there")
    assert fault(await send(user, b"12345")) == (409, "already_there")
    assert (await send(user, b"12345", overwrite="true")).status_code == 200


async def test_an_upload_that_died_as_it_became_visible_is_not_written_to(
    user: Any, sha256: Sum
) -> None:
    await send(user, b"12345")
    (part,) = user.folder.with_name("uploads").iterdir()
    os.link(part, user.folder / "x")
    assert await arrived(user) == 0
    assert (await commit(user, sha256(b"12345"))).json()["size"] == 5
    await user.done("delete", path="x")
    await send(user, b"12345")
    (part,) = user.folder.with_name("uploads").iterdir()
    os.link(part, user.folder / "y")
    assert (await send(user, b"678")).json() == {"offset": 3}
    assert (user.folder / "y").read_bytes() == b"12345"


async def test_a_file_system_without_hard_links_serves_as_well(
    user: Any, sha256: Sum, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    await user.send("x", b"12345")
    assert (user.folder / "x").read_bytes() == b"12345"
    assert user.uploads == []


async def test_a_path_on_another_file_system_is_refused(
    user: Any, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    assert fault(await user.send("x", b"12345")) == (422, "another_file_system")
    assert user.uploads == []


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow over a size, which is as if the disk were full."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


async def test_a_full_disk_ends_an_upload_that_goes_on_when_there_is_room(
    user: Any, fault: Fault, sha256: Sum
) -> None:
    content = os.urandom(5_000_000)
    with file_limit(3_000_000):
        reply = await send(user, content)
    assert fault(reply) == (507, "disk_full")
    assert await arrived(user) == 3_000_000
    await send(user, content[3_000_000:], 3_000_000)
    await commit(user, sha256(content))
    assert (user.folder / "x").read_bytes() == content


async def test_a_full_disk_leaves_nothing_of_a_plain_put(user: Any, fault: Fault) -> None:
    with file_limit(3_000_000):
        reply = await user.send("x", bytes(5_000_000))
    assert fault(reply) == (507, "disk_full")
    assert user.uploads == []


async def test_an_upload_that_nobody_resumes_is_deleted(open_user: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    async with open_user(tmp_path / "state", roots={str(data): ["*"]}) as user:
        places = {"x": user.folder.with_name("uploads"), f"{data}/x": data / ".orbit-uploads"}
        for path, folder in places.items():
            url = path.replace("/", "%2F")
            await user.send(url, b"old", upload="old", offset=0)
            (part,) = folder.iterdir()
            os.utime(part, (1000, 1000))
            await user.send(url, b"new", upload="new", offset=0)
        await user.plugin.sweep()
        for path in places:
            assert await arrived(user, path, "old") == 0
            assert await arrived(user, path, "new") == 3


async def test_nothing_has_arrived_in_a_root_that_was_never_used(
    open_user: Any, fault: Fault, tmp_path: Path
) -> None:
    async with open_user(tmp_path / "state", roots={str(tmp_path): ["alice"]}) as user:
        assert await arrived(user, f"{tmp_path}/x") == 0
        gone = {"path": f"{tmp_path}/x", "upload": "u", "sha256": "0" * 64}
        assert fault(await user.ask("commit", **gone)) == (404, "unknown_upload")
        await user.done("discard", path=f"{tmp_path}/x")


async def test_a_folder_of_uploads_that_is_not_ours_is_refused(
    open_user: Any,
    fault: Fault,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = tmp_path / "data"
    (data / "elsewhere").mkdir(parents=True)
    (data / ".orbit-uploads").symlink_to("elsewhere")
    async with open_user(tmp_path / "state", roots={str(data): ["alice"]}) as user:
        url = f"{data}/x".replace("/", "%2F")
        assert fault(await user.send(url, b"x")) == (409, "wrong_kind")
        (data / ".orbit-uploads").unlink()
        (data / ".orbit-uploads").mkdir()
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        assert fault(await user.send(url, b"x")) == (403, "path_refused")
        await user.plugin.sweep()
    assert f"unfinished uploads in {data}/.orbit-uploads stay" in caplog.text


async def test_a_session_stays_while_an_upload_runs(user: Any, fault: Fault) -> None:
    """Access is noted with every part: a session that is over ends what runs in it."""

    async def body() -> AsyncIterator[bytes]:
        yield bytes(1_500_000)
        await user.http.post("/staging/unregister_session/lab")
        yield bytes(1_500_000)

    assert fault(await send(user, body())) == (404, "unknown_session")


async def test_many_uploads_are_remembered_only_so_far(
    user: Any, sha256: Sum, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_staging.uploads.REMEMBERED", 1)
    for upload in ("one", "two", "three"):
        await send(user, upload.encode(), upload=upload)
    assert await arrived(user, upload="one") == 3
    assert (await commit(user, sha256(b"one"), upload="one")).status_code == 200
