import pytest
from blockbuster import blockbuster_ctx

from tests.commands_on_path import Commands


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def unblocked():
    """Fail a test in which the core blocks the event loop."""
    with blockbuster_ctx("orbit_core"):
        yield


@pytest.fixture
def commands(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for name in ("SLURM_JOB_ID", "PBS_JOBID"):
        monkeypatch.delenv(name, raising=False)
    return Commands(folder)
