import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from orbit_staging import (
    AlreadyThere,
    DiskFull,
    InvalidPath,
    PathRefused,
    StagingClient,
    UnknownFile,
    WrongKind,
)
from orbit_staging.disk import Disk
from orbit_staging.paths import Parts
from orbit_staging.trees import Here, There, TreeMove, read_tree

from orbit_core.testing import Deployment

pytestmark = pytest.mark.anyio

CONTENTS = {
    "top": b"1",
    "a/one": b"22",
    "a/b/two": b"333",
    "a/b/empty": b"",
    "odd name/\u00fc*": b"4444",
    "large": os.urandom(3_000_000),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a directory with files, an empty directory, and what is never moved."""
    folder = tmp_path / "tree"
    for name, content in CONTENTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "hollow" / "inner").mkdir(parents=True)
    return folder


@pytest.fixture
def trap(tree: Path, tmp_path: Path) -> Path:
    """Have links that lead out of the tree in it, a pipe, and a socket."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(b"secret")
    (tree / "a" / "link").symlink_to(secret / "key")
    (tree / "out").symlink_to(secret)
    (tree / "dangling").symlink_to("nowhere")
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as found:
        found.bind(str(tree / "socket"))
    return tree


LEFT_OUT = ["a/link", "dangling", "out", "pipe", "socket"]


@pytest.fixture
async def pair(deployment: Deployment) -> AsyncIterator[tuple[StagingClient, StagingClient]]:
    async with deployment.client() as bridge:
        a, b = [await bridge.get_endpoint_client(name).get_plugin("staging") for name in "ab"]
        assert isinstance(a, StagingClient)
        assert isinstance(b, StagingClient)
        yield a, b


async def test_a_directory_goes_up_across_and_down(
    pair: tuple[StagingClient, StagingClient], tree: Path, tmp_path: Path
) -> None:
    a, b = pair
    news: list[tuple[int, int]] = []
    size = sum(map(len, CONTENTS.values()))
    up = await a.put_folder(tree, "in/", progress=lambda *seen: news.append(seen))
    across = await a.copy_folder("in/tree", b)
    down = await b.get_folder("tree", tmp_path / "back")
    for moved in (up, across, down):
        assert contents(Path(moved.pop("path"))) == CONTENTS
        assert moved == {"files": len(CONTENTS), "size": size, "skipped": []}
    assert (tmp_path / "back" / "hollow" / "inner").is_dir()
    assert [news[0], news[-1]] == [(0, size), (size, size)]


async def test_a_directory_keeps_its_name_or_gets_another(
    pair: tuple[StagingClient, StagingClient], tree: Path, tmp_path: Path
) -> None:
    a, _ = pair
    assert (await a.put_folder(tree))["path"].endswith("/files/tree")
    assert (await a.put_folder(tree, "other"))["path"].endswith("/files/other")
    (tmp_path / "into").mkdir()
    found = await a.get_folder("tree", tmp_path / "into")
    assert found["path"] == str(tmp_path / "into" / "tree")
    whole = await a.get_folder("", tmp_path / "all")
    assert sorted(path.name for path in Path(whole["path"]).iterdir()) == ["other", "tree"]


async def test_links_and_special_files_are_left_out_and_named(
    pair: tuple[StagingClient, StagingClient], trap: Path, tmp_path: Path
) -> None:
    a, b = pair
    moved = await a.put_folder(trap)
    assert moved["skipped"] == LEFT_OUT
    assert contents(Path(moved["path"])) == CONTENTS
    there = Path(moved["path"])
    (there / "out").symlink_to(tmp_path / "secret")
    for found in (await a.get_folder("tree", tmp_path / "back"), await a.copy_folder("tree", b)):
        assert found["skipped"] == ["out"]
        assert contents(Path(found["path"])) == CONTENTS


async def test_a_link_in_the_way_leads_nowhere(
    pair: tuple[StagingClient, StagingClient], tree: Path, tmp_path: Path
) -> None:
    a, b = pair
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    await a.put_folder(tree)
    back, across = tmp_path / "back", Path((await b.mkdir("tree"))["path"])
    back.mkdir()
    for folder in (back / "tree", across):
        folder.mkdir(exist_ok=True)
        (folder / "a").symlink_to(elsewhere)
    with pytest.raises(PathRefused, match="symbolic link"):
        await a.get_folder("tree", back, overwrite=True)
    with pytest.raises(PathRefused, match="symbolic link"):
        await a.copy_folder("tree", b, overwrite=True)
    assert list(elsewhere.iterdir()) == []


async def test_what_is_there_with_the_same_sum_is_not_moved_again(
    pair: tuple[StagingClient, StagingClient], tree: Path
) -> None:
    a, _ = pair
    first = await a.put_folder(tree)
    large = Path(first["path"]) / "large"
    (large.parent / "a" / "one").unlink()
    before = large.stat().st_ino
    assert await a.put_folder(tree) == first
    assert large.stat().st_ino == before
    assert contents(large.parent) == CONTENTS


async def test_another_file_in_the_way_is_replaced_only_if_told_to(
    pair: tuple[StagingClient, StagingClient], tree: Path, tmp_path: Path
) -> None:
    a, _ = pair
    await a.put_folder(tree)
    (tree / "a" / "one").write_bytes(b"!!")
    with pytest.raises(AlreadyThere, match="/tree/a/one is there already, and is another"):
        await a.put_folder(tree)
    there = await a.put_folder(tree, overwrite=True)
    assert (Path(there["path"]) / "a" / "one").read_bytes() == b"!!"
    (tmp_path / "back" / "tree" / "a" / "one").mkdir(parents=True)
    with pytest.raises(WrongKind):
        await a.get_folder("tree", tmp_path / "back", overwrite=True)


@pytest.mark.parametrize(("source", "error"), [("nowhere", UnknownFile), ("tree/top", WrongKind)])
async def test_what_is_no_directory_is_refused(
    pair: tuple[StagingClient, StagingClient],
    tree: Path,
    tmp_path: Path,
    source: str,
    error: type[Exception],
) -> None:
    a, b = pair
    await a.put_folder(tree)
    with pytest.raises(error):
        await a.put_folder(tmp_path / source)
    with pytest.raises(error):
        await a.get_folder(source, tmp_path / "back")
    with pytest.raises(error):
        await a.copy_folder(source, b)
    assert not (tmp_path / "back").exists()


async def test_a_name_that_cannot_be_is_told_before_anything_is_sent(
    pair: tuple[StagingClient, StagingClient], tree: Path
) -> None:
    a, _ = pair
    (tree / "new\nline").touch()
    with pytest.raises(InvalidPath):
        await a.put_folder(tree)
    assert (await a.list())["entries"] == []


class Liar:
    """Be an endpoint whose listing has a name of its choice."""

    patience = 0.0

    def __init__(self, name: str) -> None:
        self._name = name

    async def list(self, path: str) -> dict[str, Any]:
        return {"entries": [{"name": self._name, "type": "file", "size": 1}]}


@pytest.mark.parametrize("name", ["..", "../x", "/etc/x", "a/b", "", ".", "a\0b"])
async def test_an_endpoint_cannot_name_what_is_outside_of_the_target(name: str) -> None:
    with pytest.raises(InvalidPath):
        await read_tree(There(Liar(name), "d"))


async def test_a_long_directory_of_this_host_is_read_in_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_staging.trees.PAGE", 3)
    for number in range(8):
        (tmp_path / str(number)).touch()
    entries = await (await Here.at(tmp_path, Disk())).entries(())
    assert [entry.name for entry in entries] == list("01234567")


@pytest.mark.parametrize(
    ("top", "path"), [("", "a/b"), ("d", "d/a/b"), ("d/", "d/a/b"), ("/", "/a/b"), ("~", "~/a/b")]
)
def test_a_path_there_is_below_the_top(top: str, path: str) -> None:
    assert There(None, top).path(("a", "b")).replace("//", "/") == path


async def test_the_first_file_that_cannot_be_moved_ends_it(tree: Path, tmp_path: Path) -> None:
    here, there = await Here.at(tree, Disk()), await Here.at(tmp_path / "back", Disk())
    moved = []

    async def move(parts: Parts, see: object) -> None:
        moved.append(parts)
        if parts == ("a", "one"):
            raise DiskFull("no room")
        await anyio.sleep_forever()

    with pytest.raises(DiskFull), anyio.fail_after(10):
        await TreeMove(here, there, move, False, lambda done, total: None).run()
    assert ("a", "one") in moved
