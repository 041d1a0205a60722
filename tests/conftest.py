import pytest
from blockbuster import blockbuster_ctx

from orbit_core.config import BridgeConfig
from orbit_core.testing import open_deployment
from tests.commands_on_path import Commands
from tests.probe_plugin import PROBE


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def unblocked():
    """Fail a test in which the core blocks the event loop."""
    with blockbuster_ctx("orbit_core") as found:
        # What measures coverage has a lock of its own, which the threads of many files hold, too.
        found.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
        yield


@pytest.fixture
def commands(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    for name in ("SLURM_JOB_ID", "PBS_JOBID"):
        monkeypatch.delenv(name, raising=False)
    return Commands(folder)


@pytest.fixture
def bridge_settings():
    """Return settings of the deployment's bridge, for a module to override."""
    return {}


@pytest.fixture
async def deployment(tmp_path, bridge_settings):
    """Run a bridge and the endpoint ``node`` with the probe."""
    config = BridgeConfig(port=0, plugins=[], **bridge_settings)
    async with open_deployment(tmp_path, plugins={"node": [PROBE]}, config=config) as found:
        yield found


@pytest.fixture
async def client(deployment):
    """Open a client that speaks for Alice."""
    async with deployment.client() as found:
        yield found
