from pathlib import Path

import anyio
import pytest
from orbit_sysinfo.disks import Disks, Usage
from orbit_sysinfo.models import Metrics
from orbit_sysinfo.probe import Probe
from orbit_sysinfo.provider import SysInfoProvider

pytestmark = pytest.mark.anyio


async def test_many_who_ask_at_once_share_one_sample(tmp_path: Path) -> None:
    measured: list[str] = []

    def usage_of(path: str) -> Usage:
        measured.append(path)
        return Usage(100, 40, 40.0)

    (tmp_path / "mountinfo").write_text("27 1 0:31 / /home rw - nfs4 filer:/home rw\n")
    disks = Disks(Probe(), tmp_path / "mountinfo", usage_of=usage_of)
    provider = SysInfoProvider(disks)
    found: list[Metrics] = []

    async def ask() -> None:
        found.append(await provider.metrics())

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ask)
    assert measured == ["/home"]
    assert all(sample is found[0] for sample in found)


async def test_the_hardware_is_looked_for_once() -> None:
    provider = SysInfoProvider()
    await provider.detect()
    hardware = provider._hardware
    await provider.detect()
    assert provider._hardware is hardware
