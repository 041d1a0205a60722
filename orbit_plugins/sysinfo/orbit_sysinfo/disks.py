"""Measure the mounted file systems, network ones included."""

import os
import re
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import attrs

from .models import Disk, DiskKind
from .probe import Probe

SHARED = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "pvfs2"),
        *("orangefs", "glusterfs", "ceph", "cephfs", "afs", "dvs", "panfs"),
    )
)
"""Types of network file systems, also behind a ``fuse.`` prefix."""

DEADLINE = 2.0
"""Seconds that a mount has to answer."""

_MOUNTINFO = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")


@attrs.frozen
class Mount:
    """Name a mount; ``number`` is the device's ``major:minor``."""

    mount: str
    device: str
    fstype: str
    number: str

    @property
    def is_shared(self) -> bool:
        """Tell whether this is a network file system."""
        return self.fstype.removeprefix("fuse.") in SHARED

    @property
    def is_disk(self) -> bool:
        """Tell whether this holds data: no pseudo file system and no packed image.

        The root is always shown: it is an overlay in containers, and memory on diskless nodes.
        """
        if self.mount == "/":
            return True
        if self.fstype == "squashfs" or self.mount.startswith(("/snap/", "/var/lib/snapd/")):
            return False
        return self.is_shared or self.fstype == "zfs" or self.device.startswith("/dev/")


@attrs.frozen
class Usage:
    """Say how full a file system is, like ``df``: what only root may fill is not free."""

    total: int
    used: int
    percent: float


def parse_mountinfo(text: str) -> list[Mount]:
    """Return the mounts that ``/proc/self/mountinfo`` lists (proc(5)).

    Of two mounts in one place only the upper one can be seen, and is returned.
    Lines that do not have the documented form are left out.
    """
    found: dict[str, Mount] = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if len(left) >= 6 and len(right) >= 2:
            mount = Mount(_plain(left[4]), _plain(right[1]), right[0], left[2])
            found.pop(mount.mount, None)
            found[mount.mount] = mount
    return list(found.values())


def measure(path: str) -> Usage | None:
    """Return how full the file system at ``path`` is; None if it is no directory or has no size.

    A container's bind mounts of single files are no disks. Blocks for as long as the mount does.
    """
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            return None
        found = os.statvfs(path)
    except OSError:
        return None
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    usable = used + found.f_bavail * found.f_frsize
    if usable <= 0:
        return None
    return Usage(found.f_blocks * found.f_frsize, used, round(100 * used / usable, 1))


@attrs.define(eq=False)
class Disks:
    """Measure this host's disks; the paths and ``usage_of`` are the operating system's."""

    probe: Probe
    mountinfo: Path = _MOUNTINFO
    sysfs: Path = Path("/sys")
    usage_of: Callable[[str], Usage | None] = measure
    deadline: float = DEADLINE

    async def read(self) -> list[Disk]:
        """Return the disks that answer, in the order in which they were mounted."""
        mounts = await anyio.to_thread.run_sync(self._mounts)
        found: dict[str, Disk] = {}

        async def add(mount: Mount, kind: DiskKind) -> None:
            call = partial(self.usage_of, mount.mount)
            usage = await self.probe.call(f"mount {mount.mount}", call, self.deadline)
            if usage is not None:
                found[mount.mount] = _disk(mount, kind, usage)

        async with anyio.create_task_group() as group:
            for mount, kind in mounts:
                group.start_soon(add, mount, kind)
        return [found[mount.mount] for mount, _ in mounts if mount.mount in found]

    def _mounts(self) -> list[tuple[Mount, DiskKind]]:
        try:
            text = self.mountinfo.read_text(errors="surrogateescape")
        except OSError:
            return []
        return [(mount, self._kind(mount)) for mount in parse_mountinfo(text) if mount.is_disk]

    def _kind(self, mount: Mount) -> DiskKind:
        if mount.is_shared:
            return "shared"
        if not mount.device.startswith("/dev/"):
            return "unknown"
        name = Path(mount.device).resolve().name
        for link in (self.sysfs / "dev/block" / mount.number, self.sysfs / "class/block" / name):
            device = link.resolve()
            for folder in (device, device.parent):  # a partition's queue is its disk's
                match _first_line(folder / "queue/rotational"):
                    case "0":
                        return "local ssd"
                    case "1":
                        return "local hdd"
        return "local unknown"


def _disk(mount: Mount, kind: DiskKind, usage: Usage) -> Disk:
    where, device = _readable(mount.mount), _readable(mount.device)
    return Disk(where, device, mount.fstype, kind, usage.total, usage.used, usage.percent)


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _readable(name: str) -> str:
    """Return a file name as text that JSON can carry, whatever its bytes."""
    return os.fsencode(name).decode(errors="replace")
