"""The default workflow from sensors to evaluation, its pilot in a batch job behind a firewall.

The programs, which stand in for OpenFOAM and the models, are in ``workflow``; with ``senspot-get``
they are all that is not real. ``sensors`` keeps the run and is the immediate cluster, ``login`` the
one with SLURM, whose nodes reach nothing but its login host.
"""

import shutil
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread
import attrs
import pytest
from orbit_xgfabric.client import XGFabricClient

from orbit_core.client import AsyncBridgeClient
from orbit_core.errors import GatewayTimeout, NotFound, OrbitError, Unavailable
from tests.waiting import until

from .outpost import Outpost, open_outpost

pytestmark = [pytest.mark.site, pytest.mark.anyio]

PROGRAMS = Path(__file__).parent / "workflow"
READER = Path(__file__).parents[2] / "orbit_plugins" / "xgfabric" / "tests" / "senspot-get"
PLUGINS = {"sensors": "xgfabric,rhapsody,staging", "login": "psij,staging,queue_info"}
PATIENCE = 200.0
SETTINGS = """
[plugin.staging.roots]
"{folder}" = ["endpoint:sensors"]
"""
SIMULATIONS = [f"sim {number}" for number in range(16)]
STEPS = ["train pcr", "train pinn", "train fno", "evaluate"]


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
    """Be the site of one workflow, whose sensor and simulations can be held back."""

    outpost: Outpost
    folder: Path
    bridge: AsyncBridgeClient
    workflows: XGFabricClient

    @property
    def held_sensor(self):
        """Return the file for whose end the sensor's reader waits."""
        return self.folder / "winds" / "hold"

    @property
    def held_simulations(self):
        """Return the file for whose end the simulations at ``sensors`` wait."""
        return self.programs("sensors") / "hold"

    def programs(self, cluster):
        return self.folder / "programs" / cluster

    def lines(self, cluster, name="log"):
        """Return what the programs noted that ran at a cluster, and in which job each did."""
        path = self.programs(cluster) / name
        lines = path.read_text().splitlines() if path.exists() else []
        return [tuple(line.split(" in job ")) for line in lines]

    async def start(self):
        """Start the workflow ``default``, which is to wait for its pilot before it trains."""
        found = await self.workflows.get_default_config()
        workflow = {**found, "timeouts": {**found["timeouts"], "pilot": PATIENCE}}
        pilot = {"queue": "batch", "duration": 600, "executor": "slurm"}
        clusters = {
            "sensors": {"workflow_path": str(self.programs("sensors"))},
            "login": {"workflow_path": str(self.programs("login")), **pilot},
        }
        await self.workflows.start_workflow(workflow, {"cluster_configs": clusters})

    async def until_state(self, condition):
        async def holds():
            with suppress(GatewayTimeout, NotFound, Unavailable):
                return condition(await self.workflows.get_status())

        await until(holds, PATIENCE)

    async def until_landed(self):
        async def has_landed():
            rows = (await self.bridge.request("GET", "/endpoints"))["endpoints"]
            return any(row["name"].startswith("login.xgf-") and row["connected"] for row in rows)

        await until(has_landed, PATIENCE)

    async def restart(self, *names):
        """Kill endpoints and start them again."""
        for name in names:
            self.outpost.kill(name)
        if "login" in names:
            await self.outpost.start_login(PLUGINS["login"])
        if "sensors" in names:
            await self.outpost.start_sensors(PLUGINS["sensors"])

    async def restart_in(self, phase):
        """Kill the endpoint of the run, which waits in a phase for the login endpoint."""
        await self.until_state(lambda state: state["phase"] == phase)
        self.outpost.kill("sensors")
        self.outpost.thaw("login")
        await self.outpost.start_sensors(PLUGINS["sensors"])

    async def clear(self):
        """End the run with its job, wherever a test that failed or was interrupted left it."""
        for held in (self.held_sensor, self.held_simulations, self.programs("login") / "hold"):
            held.unlink(missing_ok=True)
        self.outpost.thaw("login")
        with suppress(OrbitError, TimeoutError), anyio.fail_after(PATIENCE):
            await self.workflows.unregister_session()
        cluster = self.outpost.cluster
        jobs = cluster.run("squeue", "--noheader", "--format=%i").split()
        with suppress(RuntimeError):  # there is none, or it has ended meanwhile
            cluster.run("scancel", *jobs)
        await anyio.to_thread.run_sync(self.outpost.wait_until_clear)

    async def finish(self):
        """See that a run does everything once, the end of it in its job, and return its report."""
        state = await self.workflows.wait_workflow(PATIENCE)
        assert (state["status"], state["error"]) == ("completed", None), state["log"]
        assert (state["completed_simulations"], state["active_cluster"]) == (16, "login")
        here, there = self.lines("sensors"), self.lines("login")
        assert {job for _, job in here} <= {"none"}
        (native,) = {job for _, job in there}
        assert native.isdecimal()
        ended = [name for name, _ in here + there]
        assert sorted(ended[:16]) == sorted(SIMULATIONS)
        assert ended[16:] == STEPS
        assert len(self.lines("sensors", "begun") + self.lines("login", "begun")) == 16
        (run,) = (self.programs("login") / "runs").iterdir()
        assert (run / "evaluation" / "evaluation.txt").read_text() == "evaluated\n"
        report = await self.workflows.get_report()
        assert report["phase_seconds"] == pytest.approx(report["end_to_end_seconds"], rel=0.05)
        assert [queue["site"] for queue in report["queues"]] == ["login"]
        return report


@pytest.fixture
async def lab(network, walled_cluster, tmp_path):
    network.allow(walled_cluster.ports, "tcp-to-login")
    write_winds(tmp_path / "winds")
    for cluster in PLUGINS:
        shutil.copytree(PROGRAMS, tmp_path / "programs" / cluster)
    options = {
        "plugins": PLUGINS["login"],
        "settings": SETTINGS.format(folder=tmp_path / "programs"),
        "environment": {"SENSPOT_PATH": str(READER), "SENSPOT_LOGS": str(tmp_path / "winds")},
    }
    async with open_outpost(tmp_path, network, walled_cluster, **options) as outpost:
        await outpost.start_sensors(PLUGINS["sensors"])
        async with outpost.client() as bridge:
            endpoint = bridge.get_endpoint_client("sensors")
            workflows = await endpoint.get_plugin("xgfabric", sid="lab", lifetime="persistent")
            found = Lab(outpost, tmp_path, bridge, workflows)
            try:
                yield found
                await anyio.to_thread.run_sync(outpost.wait_until_clear)
            finally:
                await found.clear()


async def test_the_default_workflow_goes_on_in_a_batch_job_once_that_has_begun(lab):
    lab.held_simulations.touch()
    await lab.start()
    await lab.until_landed()
    state = await lab.workflows.get_status()
    assert [one["name"] for one in state["immediate_clusters"]] == ["sensors"]
    assert [one["name"] for one in state["allocate_clusters"]] == ["login"]
    lab.held_simulations.unlink()

    report = await lab.finish()

    spans = [span for span in report["spans"] if span["kind"] == "task"]
    assert list(dict.fromkeys((span["phase"], span["site"]) for span in spans)) == [
        ("simulations", "sensors"),
        ("simulations", "login"),
        ("training", "login"),
        ("evaluation", "login"),
    ]
    assert len(lab.lines("sensors", "begun")) == 4
    (cluster,) = (await lab.workflows.get_status())["allocate_clusters"]
    assert cluster["pilot_status"] == "landed"


async def test_a_run_goes_on_when_its_endpoint_was_killed_as_it_submitted_its_pilot(lab):
    lab.held_sensor.touch()
    await lab.start()
    await lab.until_state(lambda state: state["phase"] == "data_acquisition")
    lab.outpost.freeze("login")
    lab.held_sensor.unlink()
    await lab.restart_in("pilot_submit")
    await lab.finish()


async def test_a_run_goes_on_when_its_endpoint_was_killed_as_it_staged(lab):
    await lab.start()
    await lab.until_state(lambda state: state["pilot_jobs"] != {})
    lab.outpost.freeze("login")
    await lab.restart_in("staging")
    await lab.finish()


async def test_a_run_goes_on_when_its_endpoint_was_killed_as_it_migrated(lab):
    lab.held_simulations.touch()
    await lab.start()
    await until(lambda: len(lab.lines("sensors", "begun")) == 4, PATIENCE)
    await lab.until_landed()
    lab.outpost.freeze("login")
    lab.held_simulations.unlink()
    await lab.restart_in("migration")
    await lab.finish()


async def test_a_run_outlives_a_kill_of_all_its_endpoints_but_the_pilot(lab):
    await lab.start()
    await until(lambda: "train pcr" in dict(lab.lines("login")), PATIENCE)
    await lab.restart("sensors", "login")
    await lab.finish()


async def test_a_run_goes_on_in_another_job_when_the_node_of_its_job_fails(lab, walled_cluster):
    held = lab.programs("login") / "hold"
    held.touch()
    lab.held_simulations.touch()
    await lab.start()
    await lab.until_landed()
    lab.held_simulations.unlink()
    await until(lambda: lab.lines("login", "begun") != [], PATIENCE)
    ((_, first), *_) = lab.lines("login", "begun")
    node = walled_cluster.run("squeue", "--noheader", "--format=%N", "--jobs", first)
    walled_cluster.run("scontrol", "update", f"node={node}", "state=down", "reason=test")
    try:
        await until(lambda: len({job for _, job in lab.lines("login", "begun")}) == 2, PATIENCE)
        held.unlink()
        state = await lab.workflows.wait_workflow(PATIENCE)
    finally:
        walled_cluster.run("scontrol", "update", f"node={node}", "state=idle")

    assert (state["status"], state["error"]) == ("completed", None), state["log"]
    (told,) = [line["message"] for line in state["log"] if line["level"] == "warning"]
    assert f", job {first} of login, has ended: a node failed; pilot 2 of at most 3" in told
    ended = [name for name, _ in lab.lines("sensors") + lab.lines("login")]
    assert sorted(ended[:16]) == sorted(SIMULATIONS)
    assert ended[16:] == STEPS
    (queue,) = (await lab.workflows.get_report())["queues"]
    assert queue["pilots"] == 2


async def test_stopping_a_run_ends_its_job(lab, walled_cluster):
    await lab.start()
    names = ("squeue", "--noheader", "--format=%j")
    await until(lambda: "xgf-" in walled_cluster.run(*names), PATIENCE)

    await lab.workflows.stop_workflow()

    state = await lab.workflows.wait_workflow(PATIENCE)
    assert (state["status"], state["error"]) == ("failed", "cancelled by user")
    await anyio.to_thread.run_sync(lab.outpost.wait_until_clear)
