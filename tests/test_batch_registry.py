from importlib.metadata import EntryPoint

import pytest

from orbit_core.batch import (
    AuroraPbs,
    InvalidJobId,
    NoBatchSystem,
    SchedulerUnavailable,
    Slurm,
    batch_system,
    batch_systems,
    registry,
)  # fmt: skip

pytestmark = pytest.mark.anyio


class SiteSlurm(Slurm):
    name = "slurm-site"


@pytest.fixture
def registered(monkeypatch):
    def register(*entries):
        batch_systems.cache_clear()
        found = [EntryPoint(name, target, registry.GROUP) for name, target in entries]
        monkeypatch.setattr(registry, "entry_points", lambda group: found)

    yield register
    batch_systems.cache_clear()


def test_a_sites_own_system_comes_first(registered):
    registered(("site", "tests.test_batch_registry:SiteSlurm"))

    assert [found.name for found in batch_systems()] == ["slurm-site", "slurm", "pbs", "none"]
    assert batch_system("slurm-site").family == "slurm"


@pytest.mark.parametrize("target", ["no.such.module:X", "builtins:dict"])
def test_a_defective_entry_is_logged_and_left_out(registered, caplog, target):
    registered(("broken", target))

    assert [found.name for found in batch_systems()] == ["slurm", "pbs", "none"]
    assert "batch system broken cannot be loaded" in caplog.text


def test_aurora_is_told_by_a_folder(registered, monkeypatch, tmp_path):
    registered()
    monkeypatch.setattr(registry, "AURORA", tmp_path)

    assert isinstance(batch_system("pbs-aurora"), AuroraPbs)


async def test_an_unknown_name_is_no_system():
    system = batch_system("condor")

    assert isinstance(system, NoBatchSystem)
    assert not system.in_allocation()
    assert await system.detect()
    assert (await system.nodelist(), await system.job_allocation()) == ([], None)
    with pytest.raises(InvalidJobId):
        await system.report("7")
    assert (await system._reports(["7"]), await system._cancel("7")) == ({}, None)
    assert await system._expand("node01") == []
    with pytest.raises(SchedulerUnavailable, match="no scheduler here"):
        await system.run("qstat")
