import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_staging.errors import InvalidPath, PathRefused
from orbit_staging.paths import UPLOADS, Places, Root, may_use, split

from orbit_core.models import Principal, Role
from orbit_core.testing import ADMIN, ALICE, Deployment

pytestmark = pytest.mark.anyio

Fault = Callable[[httpx.Response], tuple[int, str]]

SECRET = b"the token of the endpoint"

# Each is one path, as a client may write it in a URL; all begin in the session's directory.
ATTACKS = [
    "..", "../secret", "../../secret", "../../../../../../secret", "a/../../secret", "./../secret",
    "sub/../../secret", "sub/../../../secret", "sub//..//../secret", "%2e%2e/secret",
    "%2e%2e%2fsecret", "..%2fsecret", "%2e./secret", ".%2e/secret", "sub/%2e%2e/%2e%2e/secret",
    "..%2f..%2fsecret", "sub/..", "sub/../..", "%2e%2e", "..%2f",
    "%2fetc%2fpasswd", "/etc/passwd", "//etc/passwd", "%2f%2fetc%2fpasswd", "%2Fetc/shadow",
    "%2fproc%2fself%2fenviron", "%2fproc/self/root/etc/passwd", "%2fdev%2fzero", "%2fdev/stdin",
    "%2f", "%2f.", "~", "~/.ssh/id_rsa", "~%2f.ssh%2fauthorized_keys", "%7e/.bashrc",
    "out", "out/secret", "out/../secret", "file-link", "dir-link/secret", "dir-link",
    "loop", "loop/x", "absolute-link", "sub/up", "sub/up/secret",
    "%00", "a%00b", "sub%2f%00", "secret%00.txt", "a%1b[2Jb",
    "pipe", "socket", ".orbit-uploads", ".orbit-uploads/x", "sub/.orbit-uploads/x",
    "x" * 5000, "y" * 256, "sub/" + "z" * 300,
]  # fmt: skip


def lay_traps(folder: Path, outside: Path) -> None:
    """Lay links and special files into a session's directory."""
    (outside / "secret").write_bytes(SECRET)
    for name in ("secret", "authorized_keys"):
        (folder.parent / name).write_bytes(SECRET)
    (folder / "sub").mkdir()
    (folder / "sub" / "up").symlink_to("../..")
    (folder / "out").symlink_to(outside)
    (folder / "dir-link").symlink_to(folder.parent)
    (folder / "file-link").symlink_to(outside / "secret")
    (folder / "absolute-link").symlink_to("/etc/passwd")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as found:
        at = os.open(folder, os.O_RDONLY)
        try:
            found.bind(f"/proc/self/fd/{at}/socket")
        finally:
            os.close(at)


@pytest.fixture
def trapped(user: Any, tmp_path: Path) -> Any:
    lay_traps(user.folder, tmp_path)
    return user


def test_there_are_fifty_attacks() -> None:
    assert len(set(ATTACKS)) == len(ATTACKS) >= 50


REFUSALS = {
    (400, "invalid_path"),
    (403, "path_refused"),
    (409, "wrong_kind"),
}


@pytest.mark.parametrize("path", ATTACKS, ids=lambda path: path[:40])
async def test_an_attack_by_path_is_refused(
    trapped: Any, fault: Fault, tmp_path: Path, path: str
) -> None:
    before = tree(tmp_path)
    path = path.replace("..", "%2e%2e")  # else the client of the test would resolve it
    read = await trapped.read(path)
    assert fault(read) in REFUSALS
    assert SECRET not in read.content
    for overwrite in ("false", "true"):
        assert fault(await trapped.send(path, b"evil", overwrite=overwrite)) in REFUSALS
    assert tree(tmp_path) == before


async def test_no_attack_gets_through_the_bridge_as_it_is_sent(
    deployment: Deployment, tmp_path: Path
) -> None:
    """Send every path raw: clients resolve some of them before anybody could refuse them."""
    token = await deployment.token()
    async with deployment.client() as bridge:
        staging: Any = await bridge.get_endpoint_client("a").get_plugin("staging", sid="lab")
        lay_traps(Path((await staging.stat(""))["path"]), tmp_path)
        port = int(bridge.url.rpartition(":")[2])
        before = tree(tmp_path)
        for path in ATTACKS:
            for method in ("GET", "PUT"):
                head = f"{method} /a/staging/files/lab/{path} HTTP/1.1\r\nHost: localhost\r\n"
                rest = f"Authorization: Bearer {token}\r\nConnection: close\r\n"
                body = "Content-Length: 4\r\n\r\nevil" if method == "PUT" else "\r\n"
                async with await anyio.connect_tcp("127.0.0.1", port) as tcp:
                    await tcp.send((head + rest + body).encode())
                    answer = b"".join([part async for part in tcp])
                assert SECRET not in answer
                assert answer.split()[1] in (b"400", b"403", b"409"), path
        assert tree(tmp_path) == before


def tree(top: Path) -> dict[str, Any]:
    """Return what is where below a directory, but for the database and unfinished uploads."""
    return {
        str(path.relative_to(top)): path.lstat().st_size if path.is_file() else None
        for path in sorted(top.rglob("*"))
        if "sqlite" not in path.name and "lock" not in path.name
    }


@pytest.mark.parametrize("route", ["list", "stat", "mkdir", "delete", "get", "put", "grant"])
@pytest.mark.parametrize(
    "path", ["../secret", "out/secret", "/etc/passwd", "a\0b", "a\nb", "\ud800"]
)
async def test_no_route_leaves_the_root(
    trapped: Any, fault: Fault, tmp_path: Path, route: str, path: str
) -> None:
    before = tree(tmp_path)
    body = {"path": path, "filename": path, "content": "eA==", "endpoint": "b"}
    reply = await trapped.http.post(
        f"/staging/{route}/{trapped.sid}",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
    )
    assert fault(reply) in REFUSALS
    assert tree(tmp_path) == before


async def test_a_link_is_deleted_and_not_what_it_leads_to(trapped: Any, tmp_path: Path) -> None:
    await trapped.done("delete", path="out", recursive=True)
    await trapped.done("delete", path="file-link")
    assert (tmp_path / "secret").read_bytes() == SECRET
    assert not os.path.lexists(trapped.folder / "out")


async def test_deleting_a_tree_follows_no_link(trapped: Any, tmp_path: Path) -> None:
    await trapped.done("delete", path="sub", recursive=True)
    assert (trapped.folder.parent / "secret").read_bytes() == SECRET


async def test_a_directory_that_becomes_a_link_leads_nowhere(
    trapped: Any, fault: Fault, tmp_path: Path
) -> None:
    """Exchange a directory for a link again and again while its file is asked for."""
    folder: Path = trapped.folder
    swapped = folder / "swapped"
    inner, link = folder / "inner", folder / "link"
    inner.mkdir()
    (inner / "secret").write_bytes(b"harmless")
    link.symlink_to(folder.parent)
    seen = set()
    for number in range(100):
        os.rename(link if number % 2 else inner, swapped)
        reply = await trapped.read("swapped/secret")
        seen.add(reply.content if reply.status_code == 200 else fault(reply)[1])
        os.rename(swapped, link if number % 2 else inner)
    assert seen == {b"harmless", "path_refused"}


async def test_what_no_file_is_shows_in_the_listing_as_unknown(trapped: Any) -> None:
    found = await trapped.done("list", path="")
    kinds = {entry["name"]: (entry["type"], entry["size"]) for entry in found["entries"]}
    assert kinds["pipe"] == kinds["out"] == kinds["socket"] == ("unknown", None)
    assert kinds["sub"] == ("dir", None)


PARTS = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs", "Cc"]), min_size=1)


@given(st.lists(PARTS.filter(lambda part: part not in (".", "..", UPLOADS)), max_size=8))
def test_a_plain_path_is_its_parts(parts: list[str]) -> None:
    assert split("/".join(parts)) == tuple(parts)
    assert split("//" + "/./".join(parts) + "/") == tuple(parts)


@given(st.lists(PARTS | st.just(".."), max_size=8), st.sampled_from(["..", "a\0", "\ud800"]))
def test_one_bad_part_spoils_a_path(parts: list[str], bad: str) -> None:
    with pytest.raises((InvalidPath, PathRefused)):
        split("/".join([*parts, bad, *parts]))


@given(st.text(max_size=200))
def test_whatever_is_named_is_below_a_root_or_refused(text: str) -> None:
    own = Root.of_session(Path("/state/lab"))
    other = Root(Path("/data"), Path("/data") / UPLOADS, frozenset({("data",), ("old", "data")}))
    try:
        place = Places(own, [other], Path("/home/ada")).find(text)
    except (InvalidPath, PathRefused):
        return
    assert Path(str(place)).is_relative_to(place.root.path)
    assert ".." not in Path(str(place)).parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x", "/state/lab/files/x"),
        ("", "/state/lab/files"),
        ("/state/lab/files/x", "/state/lab/files/x"),
        ("/old/data/x/y", "/data/x/y"),
        ("/data", "/data"),
        ("~/x", "/home/ada/x"),
        ("~", "/home/ada"),
        ("~ada/x", "/state/lab/files/~ada/x"),
        ("/home/ada/deep/x", "/home/ada/deep/x"),
    ],
)
def test_a_path_is_found_in_its_root(text: str, expected: str) -> None:
    own = Root.of_session(Path("/state/lab"))
    data = Root(Path("/data"), Path("/data") / UPLOADS, frozenset({("data",), ("old", "data")}))
    home = Root(Path("/home/ada"), Path("/home/ada") / UPLOADS, frozenset({("home", "ada")}))
    deep = Path("/home/ada/deep")
    inner = Root(deep, deep / UPLOADS, frozenset({("home", "ada", "deep")}))
    found = Places(own, [data, home, inner], Path("/home/ada")).find(text)
    assert str(found) == expected
    assert (found.root is inner) == ("deep" in text)


def test_a_root_is_for_those_whom_the_configuration_names() -> None:
    assert may_use(ALICE, ["alice"])
    assert may_use(ALICE, ["*"])
    assert may_use(ADMIN, ["bob"])
    assert not may_use(ALICE, ["bob"])
    assert not may_use(Principal("alice", Role.ENDPOINT, endpoint="a"), ["alice"])
    assert may_use(Principal("alice", Role.ENDPOINT, endpoint="a"), ["endpoint:a"])
