import threading
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_sysinfo.disks import Disks, Usage, measure, parse_mountinfo
from orbit_sysinfo.probe import Probe

pytestmark = pytest.mark.anyio

MOUNTINFO = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
23 27 0:22 / /sys rw,nosuid shared:7 - sysfs sysfs rw
25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24684084k
27 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
28 27 8:17 / /data rw,relatime shared:2 master:3 - xfs /dev/sdb1 rw,attr2
29 27 0:60 / /tank rw,relatime - zfs tank/home rw
30 27 7:3 / /snap/core/16202 ro,nodev - squashfs /dev/loop3 ro
31 27 0:50 / /home rw,relatime shared:9 - nfs4 filer:/export/home rw,vers=4.2,addr=10.0.0.7
32 27 0:51 / /lustre/my\\040scratch rw shared:10 - lustre 10.1.2.3@o2ib:/scratch rw,flock
33 27 0:52 / /gpfs/alpine rw - gpfs alpine rw
34 27 0:53 / /opt/cray rw - dvs /opt/cray rw
35 27 0:54 / /gluster rw - fuse.glusterfs store:/vol rw
36 27 0:55 / /remote rw - fuse.sshfs ada@node:/ rw
37 27 252:5 / /odd rw - ext4 /dev/mapper/vg-odd rw
not a mount
38 27 8:18 / /data rw - xfs /dev/sdb2 rw
"""
SHARED = ["/home", "/lustre/my scratch", "/gpfs/alpine", "/opt/cray", "/gluster"]


def make_sysfs(root: Path) -> Path:
    for disk, part, number, flag in (
        ("nvme0n1", "nvme0n1p2", "259:2", "0"),
        ("sdb", "sdb2", "8:18", "1"),
    ):
        (root / "devices" / disk / "queue").mkdir(parents=True)
        (root / "devices" / disk / "queue/rotational").write_text(f"{flag}\n")
        (root / "devices" / disk / part).mkdir()
        (root / "dev/block").mkdir(parents=True, exist_ok=True)
        (root / "dev/block" / number).symlink_to(root / "devices" / disk / part)
    return root


def make_disks(tmp_path: Path, text: str = MOUNTINFO) -> Disks:
    table = tmp_path / "mountinfo"
    table.write_text(text)
    sysfs = make_sysfs(tmp_path / "sys")
    return Disks(Probe(), table, sysfs, usage_of=lambda path: Usage(100, 40, 40.0))


async def test_network_and_local_file_systems_are_reported_and_pseudo_ones_are_not(
    tmp_path: Path,
) -> None:
    found = await make_disks(tmp_path).read()
    assert {disk.mount: disk.type for disk in found} == {
        "/": "local ssd",
        "/tank": "unknown",
        **dict.fromkeys(SHARED, "shared"),
        "/odd": "local unknown",
        "/data": "local hdd",
    }


async def test_the_upper_of_two_mounts_in_one_place_is_reported(tmp_path: Path) -> None:
    found = [disk for disk in await make_disks(tmp_path).read() if disk.mount == "/data"]
    assert [disk.device for disk in found] == ["/dev/sdb2"]


async def test_a_device_without_a_number_in_sysfs_is_found_by_its_name(tmp_path: Path) -> None:
    disks = make_disks(tmp_path, "27 1 0:31 / / rw - btrfs /dev/vdz9 rw\n")
    queue = tmp_path / "sys/class/block/vdz9/queue"
    queue.mkdir(parents=True)
    (queue / "rotational").write_text("0\n")
    assert [disk.type for disk in await disks.read()] == ["local ssd"]


async def test_a_hung_mount_does_not_keep_the_others(tmp_path: Path) -> None:
    gate = threading.Event()

    def usage_of(path: str) -> Usage:
        if path == "/home":
            gate.wait(60)
        return Usage(100, 40, 40.0)

    disks = make_disks(tmp_path)
    disks.usage_of, disks.deadline = usage_of, 0.3
    try:
        with anyio.fail_after(20):
            mounts = [disk.mount for disk in await disks.read()]
    finally:
        gate.set()
    assert "/home" not in mounts
    assert "/gpfs/alpine" in mounts


@pytest.mark.parametrize("line", ["overlay overlay", "tmpfs none", "squashfs /dev/loop0"])
async def test_the_root_is_reported_whatever_it_is(tmp_path: Path, line: str) -> None:
    disks = make_disks(tmp_path, f"27 1 0:31 / / rw - {line} rw\n")
    assert [disk.mount for disk in await disks.read()] == ["/"]


async def test_an_unreadable_mount_is_skipped(tmp_path: Path) -> None:
    disks = make_disks(tmp_path, f"27 1 0:31 / {tmp_path}/gone rw - nfs filer:/gone rw\n")
    disks.usage_of = measure
    assert await disks.read() == []


async def test_a_host_without_a_mount_table_has_no_disks(tmp_path: Path) -> None:
    assert await Disks(Probe(), tmp_path / "missing").read() == []


async def test_a_mount_with_undecodable_bytes_is_reported_as_text(tmp_path: Path) -> None:
    disks = make_disks(tmp_path)
    (tmp_path / "mountinfo").write_bytes(b"27 1 8:18 / /caf\xe9 rw - xfs /dev/sdb2 rw\n")
    assert [disk.mount for disk in await disks.read()] == ["/caf\ufffd"]


def test_measure_agrees_with_the_size_of_a_real_directory(tmp_path: Path) -> None:
    found = measure(str(tmp_path))
    assert found is not None
    assert 0 <= found.used <= found.total
    assert 0 <= found.percent <= 100


@pytest.mark.parametrize("path", ["/proc", "/etc/passwd", "/missing"])
def test_measure_has_nothing_to_say_of_what_is_no_disk(path: str) -> None:
    assert measure(path) is None


@given(st.text())
def test_any_text_is_a_mount_table(text: str) -> None:
    for mount in parse_mountinfo(text):
        assert mount.fstype or not mount.is_shared


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1))
def test_a_mount_point_survives_the_kernels_escapes(name: str) -> None:
    escaped = "".join(f"\\{ord(char):03o}" if char in " \\" else char for char in name)
    (mount,) = parse_mountinfo(f"27 1 8:1 / /{escaped} rw - ext4 /dev/sda1 rw")
    assert mount.mount == f"/{name}"
