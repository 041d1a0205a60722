"""The workflow ``default`` from a sensor's host to a batch job on SLURM, with stand-in programs."""

import shutil
from pathlib import Path

import anyio
import anyio.to_thread
import attrs
import pytest
from orbit_xgfabric.client import XGFabricClient

from .outpost import Outpost, open_outpost

pytestmark = [pytest.mark.site, pytest.mark.anyio]

PROGRAMS = Path(__file__).parent / "workflow"
READER = Path(__file__).parents[2] / "orbit_plugins" / "xgfabric" / "tests" / "senspot-get"
PATIENCE = 200.0
SETTINGS = """
[plugin.staging.roots]
{folder} = ["endpoint:sensors"]
"""


def write_winds(folder):
    """Write forty records of the screen house's station, in mph, each 5 minutes after the last."""
    folder.mkdir()
    lines = [
        f"{1_700_000_000 + 300 * n} {5 + n % 20}.5:{5 + n % 20}.1:{9 * n % 360}:4:61"
        for n in range(40)
    ]
    (folder / "daviscupsout").write_text("\n".join(lines) + "\n")


@attrs.define(eq=False)
class Lab:
    """Be a site with a sensors' host, which is the immediate cluster, and a SLURM cluster."""

    outpost: Outpost
    folder: Path
    workflows: XGFabricClient

    def programs(self, cluster):
        return self.folder / "programs" / cluster

    def log(self, cluster):
        path = self.programs(cluster) / "log"
        return path.read_text().splitlines() if path.exists() else []

    def resource(self):
        return {
            "cluster_configs": {
                "sensors": {"workflow_path": str(self.programs("sensors"))},
                "login": {
                    "workflow_path": str(self.programs("login")),
                    "queue": "batch",
                    "duration": 600,
                    "executor": "slurm",
                },
            }
        }

    async def workflow(self):
        """Return the workflow ``default``, which is to wait for its pilot before it trains."""
        found = await self.workflows.get_default_config()
        return {**found, "timeouts": {**found["timeouts"], "pilot": PATIENCE}}


@pytest.fixture
async def lab(network, walled_cluster, tmp_path):
    network.allow(walled_cluster.ports, "tcp-to-login")
    write_winds(tmp_path / "winds")
    for cluster in ("sensors", "login"):
        shutil.copytree(PROGRAMS, tmp_path / "programs" / cluster)
    options = {
        "plugins": "psij,staging,queue_info",
        "settings": SETTINGS.format(folder=f'"{tmp_path}/programs"'),
        "environment": {"SENSPOT_PATH": str(READER), "SENSPOT_LOGS": str(tmp_path / "winds")},
    }
    async with open_outpost(tmp_path, network, walled_cluster, **options) as outpost:
        await outpost.start_sensors("xgfabric,rhapsody,staging")
        async with outpost.client() as bridge:
            endpoint = bridge.get_endpoint_client("sensors")
            workflows = await endpoint.get_plugin("xgfabric", sid="lab", lifetime="persistent")
            yield Lab(outpost, tmp_path, workflows)
        await anyio.to_thread.run_sync(outpost.wait_until_clear)


async def test_the_default_workflow_goes_on_in_a_batch_job_once_that_has_begun(lab):
    await lab.workflows.start_workflow(await lab.workflow(), lab.resource())
    state = await lab.workflows.wait_workflow(PATIENCE)

    assert (state["status"], state["error"]) == ("completed", None), state["log"]
    assert (state["active_cluster"], state["completed_simulations"]) == ("login", 16)
    (cluster,) = state["allocate_clusters"]
    job = state["pilot_jobs"]["login"]
    assert (cluster["name"], cluster["pilot_status"], cluster["pilot_job_id"]) == (
        "login",
        "landed",
        job,
    )
    here, there = lab.log("sensors"), lab.log("login")
    simulated = [line.split()[1] for line in here + there if line.startswith("sim ")]
    assert sorted(map(int, simulated)) == list(range(16))
    assert {line.rpartition(" ")[2] for line in here} == {"none"}
    (native,) = {line.rpartition(" ")[2] for line in there}
    assert native.isdecimal()
    assert [line.rpartition(" in ")[0] for line in there if not line.startswith("sim ")] == [
        "train pcr",
        "train pinn",
        "train fno",
        "evaluate",
    ]
    report = await lab.workflows.get_report()
    assert report["phase_seconds"] == pytest.approx(report["end_to_end_seconds"], rel=0.05)
    assert [queue["site"] for queue in report["queues"]] == ["login"]
    (run,) = (lab.programs("login") / "runs").iterdir()
    assert (run / "evaluation" / "evaluation.txt").read_text() == "evaluated\n"
    assert len(list((run / "simulations").iterdir())) == 16


async def test_the_run_outlives_its_endpoint_and_its_cluster_s_and_simulates_nothing_twice(lab):
    await lab.workflows.start_workflow(await lab.workflow(), lab.resource())
    with anyio.fail_after(PATIENCE):
        while not any(line.startswith("train ") for line in lab.log("login")):
            await anyio.sleep(0.1)

    lab.outpost.kill("sensors")
    lab.outpost.kill("login")
    await lab.outpost.start_login("psij,staging,queue_info")
    await lab.outpost.start_sensors("xgfabric,rhapsody,staging")

    state = await lab.workflows.wait_workflow(PATIENCE)
    assert (state["status"], state["error"]) == ("completed", None), state["log"]
    lines = [line.rpartition(" in ")[0] for line in lab.log("sensors") + lab.log("login")]
    assert len(lines) == len(set(lines)) == 16 + 3 + 1


async def test_stopping_a_run_ends_its_job(lab, walled_cluster):
    await lab.workflows.start_workflow(await lab.workflow(), lab.resource())
    with anyio.fail_after(PATIENCE):
        while "xgf-" not in walled_cluster.run("squeue", "--noheader", "--format=%j"):
            await anyio.sleep(0.1)

    await lab.workflows.stop_workflow()

    state = await lab.workflows.wait_workflow(PATIENCE)
    assert (state["status"], state["error"]) == ("failed", "cancelled by user")
    await anyio.to_thread.run_sync(lab.outpost.wait_until_clear)
