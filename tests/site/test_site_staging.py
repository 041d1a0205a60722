"""Move files to and from file systems that are full: real ones, of a few MiB."""

import os
import subprocess
from pathlib import Path

import pytest
from orbit_staging import DiskFull

from orbit_core.testing import open_deployment

pytestmark = [pytest.mark.site, pytest.mark.anyio]

TARGET = "orbit_staging.plugin:StagingPlugin"
MIB = 1024 * 1024
ROOM = 64 * MIB


@pytest.fixture
def disk(tmp_path):
    """Mount a file system of `ROOM` bytes (tmpfs(5)); the test fails where that is not possible."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "orbit-tested", place], check=True
    )
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.fixture
async def deployment(disk, tmp_path):
    """Run the endpoint ``small``, whose files are on the disk, and ``large``, whose are not."""
    settings = {"staging": {"directory": str(disk)}}
    async with (
        open_deployment(tmp_path / "state", plugins={"large": [TARGET]}) as found,
        found.endpoint("small", [TARGET], settings=settings),
    ):
        yield found


@pytest.fixture
async def pair(deployment):
    """Return the clients of both endpoints."""
    async with deployment.client() as bridge:
        yield [
            await bridge.get_endpoint_client(name).get_plugin("staging", sid="lab")
            for name in ("small", "large")
        ]


@pytest.fixture
def small(pair):
    return pair[0]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(os.urandom(48 * MIB))
    return path


def fill(disk):
    """Leave no room on the disk but for 1 MiB, and return what takes it."""
    ballast = disk / "ballast"
    found = os.statvfs(disk)
    ballast.write_bytes(bytes(found.f_bavail * found.f_frsize - MIB))
    return ballast


async def names(staging):
    return [entry["name"] for entry in (await staging.list())["entries"]]


def left_of_uploads(disk):
    return [path.stat().st_size for path in disk.rglob("uploads/*")]


async def test_a_file_that_cannot_fit_is_refused_before_it_is_sent(disk, small, source):
    ballast, news = fill(disk), []
    with pytest.raises(DiskFull, match="needs 50331648 bytes more and there are"):
        await small.put(source, "x", progress=lambda done, total: news.append(done))

    assert await names(small) == []
    assert sum(left_of_uploads(disk)) == 0
    ballast.unlink()
    await small.put(source, "x")
    assert await names(small) == ["x"]


async def test_a_disk_that_fills_up_meanwhile_keeps_what_came_until_there_is_room(
    disk, small, source
):
    news = []

    def fill_up(done, total):
        news.append(done)
        if sum(left_of_uploads(disk)) >= MIB and not (disk / "ballast").exists():
            fill(disk)

    with pytest.raises(DiskFull, match=r"there is no room for .*/lab/files/x .*: free some, and"):
        await small.put(source, "x", progress=fill_up)

    assert await names(small) == []
    assert (await small.stat(""))["type"] == "dir"
    (disk / "ballast").unlink()
    news.clear()
    stored = await small.put(source, "x", progress=lambda done, total: news.append(done))
    assert news[0] > 0
    assert Path(stored["path"]).read_bytes() == source.read_bytes()
    assert left_of_uploads(disk) == []


async def test_a_body_of_unknown_size_leaves_nothing_on_the_disk_that_it_fills(
    disk, deployment, small
):
    async def too_much():
        for _ in range(ROOM // MIB + 8):
            yield bytes(MIB)

    async with deployment.client() as bridge:
        reply = await bridge.http.put("/small/staging/files/lab/x", content=too_much())

    assert (reply.status_code, reply.json()["code"]) == (507, "disk_full")
    assert await names(small) == []
    assert left_of_uploads(disk) == []


async def test_a_small_file_finds_room_beside_one_that_did_not(disk, small, source, tmp_path):
    fill(disk)
    (tmp_path / "little").write_bytes(bytes(1000))
    with pytest.raises(DiskFull):
        await small.put(source, "x")

    await small.put(tmp_path / "little")
    await small.mkdir("d")
    assert await names(small) == ["d", "little"]
    await small.delete("little")


async def test_a_copy_to_a_full_disk_says_so_and_goes_through_when_there_is_room(
    disk, pair, source
):
    small, large = pair
    await large.put(source, "x")
    ballast = fill(disk)
    with pytest.raises(DiskFull):
        await large.copy("x", small)

    assert await names(small) == []
    ballast.unlink()
    copied = await large.copy("x", small)
    assert Path(copied["path"]).read_bytes() == source.read_bytes()


async def test_a_download_to_a_full_disk_says_so_and_goes_on_when_there_is_room(disk, pair, source):
    _, large = pair
    await large.put(source, "x")
    target, ballast, news = disk / "target", fill(disk), []
    with pytest.raises(DiskFull, match=r"there is no room for .*/target"):
        await large.get("x", target)

    assert not target.exists()
    ballast.unlink()
    await large.get("x", target, progress=lambda done, total: news.append(done))
    assert 0 < news[0] <= MIB
    assert target.read_bytes() == source.read_bytes()
    assert [path.name for path in disk.iterdir() if path.is_file()] == ["target"]


async def test_a_session_opens_and_ends_on_a_full_disk(disk, deployment, small):
    with fill(disk).open("ab") as ballast:
        ballast.write(bytes(MIB))
    async with deployment.client() as bridge:
        other = await bridge.get_endpoint_client("small").get_plugin("staging", sid="other")
        assert await names(other) == []
        await other.unregister_session()
    assert await names(small) == []
