"""Workflows whose endpoint is killed: three real endpoints, and a pilot that is a fourth."""

import os
import signal
from contextlib import asynccontextmanager

import anyio
import attrs
import psutil
import pytest

from orbit_core.errors import GatewayTimeout, NotFound, Unavailable
from tests.processes import open_site
from tests.waiting import until

pytestmark = pytest.mark.anyio

PATIENCE = 90.0
AWAY = (GatewayTimeout, NotFound, Unavailable)
RESOURCE = {
    "cluster_configs": {
        "small": {},
        "big": {"cluster_type": "allocate", "executor": "local", "tunnel": "none"},
    }
}


def shell(script, *arguments):
    return {"executable": "/bin/sh", "arguments": ["-c", script, "stand-in", *arguments]}


@attrs.define(eq=False)
class Lab:
    """Be the site of a workflow that is run from ``hub``, at ``small`` and then at ``big``.

    Each program notes its end in ``log``. While there is a file ``hold-PHASE``, the program of that
    phase, or the sensor, waits for its end.
    """

    site: object
    folder: object
    bridge: object
    workflows: object = None

    @classmethod
    async def open(cls, site, folder, bridge):
        lab = cls(site, folder, bridge)
        endpoint = bridge.get_endpoint_client("hub")
        session = {"sid": folder.name, "lifetime": "persistent"}
        lab.workflows = await endpoint.get_plugin("xgfabric", **session)
        return lab

    def path(self, name):
        return self.folder / name

    def hold(self, phase):
        self.path(f"hold-{phase}").touch()

    def let_go(self, phase):
        self.path(f"hold-{phase}").unlink()

    def lines(self, name="log"):
        path = self.path(name)
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def program(self, phase, name, more="true"):
        """Return a script that waits, does something, and notes its end."""
        wait = f'while [ -e "{self.path(f"hold-{phase}")}" ]; do sleep 0.05; done'
        begun = f'echo "{name}" >> "{self.path("begun")}"'
        return f'{begun}; {wait}; {more}; echo "{name}" >> "{self.path("log")}"'

    def workflow(self):
        return {
            "name": "stand-ins",
            "local_workspace": str(self.path("local")),
            "num_simulations": 4,
            "batch_size": 2,
            "train_models": ["pcr"],
            "sources": [{"url": "woof://192.0.2.1/station/cups", "limit": 8}],
            "timeouts": {"pilot": PATIENCE, "away": PATIENCE},
            "simulation_task": shell(
                self.program("simulations", "sim $1", 'echo "$2,$3" > "$4"'),
                "{sim_id}",
                "{wind_speed}",
                "{wind_dir}",
                "{sim_output_file}",
            ),
            "training_tasks": {
                "pcr": shell(
                    self.program("training", "train", 'cat "$1"/sim_*.csv > "$2/points.csv"'),
                    "{simulations_dir}",
                    "{output_dir}",
                )
            },
            "evaluation_task": shell(
                self.program("evaluation", "evaluate", 'wc -l < "$1/pcr/points.csv" > "$2/points"'),
                "{models_dir}",
                "{eval_output}",
            ),
        }

    async def status(self):
        """Return the state, or None while the endpoint is away."""
        try:
            return await self.workflows.get_status()
        except AWAY:
            return None

    async def until_phase(self, phase):
        async def is_there():
            return (state := await self.status()) is not None and state["phase"] == phase

        await until(is_there, PATIENCE)

    async def until_begun(self, name):
        await until(lambda: name in self.lines("begun"), PATIENCE)

    async def until_landed(self):
        async def has_landed():
            rows = (await self.bridge.request("GET", "/endpoints"))["endpoints"]
            return any(row["name"].startswith("big.xgf-") and row["connected"] for row in rows)

        await until(has_landed, PATIENCE)

    def freeze(self, name):
        """Have an endpoint answer nobody."""
        os.kill(self.site.pid(name), signal.SIGSTOP)

    def thaw(self, name):
        os.kill(self.site.pid(name), signal.SIGCONT)

    async def clear(self):
        """End the run with its pilot, wherever a test that failed or was interrupted left it."""
        for held in self.folder.glob("hold-*"):
            held.unlink()
        for name in ("big", "small"):
            self.thaw(name)
        if not self.site.is_running("hub"):
            await self.site.start_endpoint("hub", "xgfabric")
        await self.workflows.unregister_session()
        await until(lambda: not self.pilots(), PATIENCE)

    def pilots(self):
        """Return the processes of pilots."""
        return [
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if "big.xgf-" in (line := " ".join(process.info["cmdline"] or []))
            and str(self.site.folder) in line
        ]


SENSOR = """#!/bin/sh
# Print the record that -S names, else the 20th, as CSPOT's senspot-get does.
echo read >> "{begun}"
while [ -e "{hold}" ]; do sleep 0.05; done
number=20
if [ "$3" = -S ]; then number=$4; fi
printf '%s:%s:%s:4:61 time: %s.0000000000 192.0.2.1 seq_no: %s\\n' \\
    "$number.5" "$number.1" "$((number * 9))" "$((1700000000 + 300 * number))" "$number"
"""


def write_sensor(folder):
    """Write a sensor's program that looks at the directory ``current``, the one of the test."""
    path, current = folder / "senspot-get", folder / "current"
    path.write_text(SENSOR.format(begun=current / "begun", hold=current / "hold-data_acquisition"))
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
async def site(tmp_path_factory):
    """Start the three endpoints once: every test begins with all of them running."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENSPOT_PATH", str(write_sensor(folder)))
        async with open_site(folder) as found:
            await found.start_endpoint("big", "psij,staging")
            await found.start_endpoint("small", "rhapsody,staging")
            await found.start_endpoint("hub", "xgfabric")
            yield found


@pytest.fixture
async def lab(site, tmp_path):
    current = site.folder / "current"
    current.unlink(missing_ok=True)
    current.symlink_to(tmp_path)
    async with site.client() as bridge:
        found = await Lab.open(site, tmp_path, bridge)
        try:
            yield found
        finally:
            await found.clear()


async def kill_in_acquisition(lab):
    await lab.until_begun("read")
    await lab.until_phase("data_acquisition")
    await lab.site.kill("hub")
    lab.let_go("data_acquisition")


async def kill_while_frozen(lab, name, phase):
    """Kill the endpoint while it waits for an answer of another one."""
    await lab.until_phase(phase)
    await lab.site.kill("hub")
    lab.thaw(name)


async def kill_in_pilot_submit(lab):
    await lab.until_begun("read")
    lab.freeze("big")
    lab.let_go("data_acquisition")
    await kill_while_frozen(lab, "big", "pilot_submit")


async def kill_in_staging(lab):
    await lab.until_begun("read")
    lab.freeze("small")
    lab.let_go("data_acquisition")
    await kill_while_frozen(lab, "small", "staging")


async def kill_in_simulations(lab):
    await lab.until_begun("sim 1")
    await lab.site.kill("hub")
    lab.let_go("simulations")


async def kill_in_migration(lab):
    await lab.until_begun("sim 1")
    await lab.until_landed()
    lab.freeze("big")
    lab.let_go("simulations")
    await kill_while_frozen(lab, "big", "migration")


async def kill_in_training(lab):
    await lab.until_begun("train")
    await lab.site.kill("hub")
    lab.let_go("training")


async def kill_in_evaluation(lab):
    await lab.until_begun("evaluate")
    await lab.site.kill("hub")
    lab.let_go("evaluation")


KILLS = {
    "data_acquisition": ("data_acquisition", kill_in_acquisition),
    "pilot_submit": ("data_acquisition", kill_in_pilot_submit),
    "staging": ("data_acquisition", kill_in_staging),
    "simulations": ("simulations", kill_in_simulations),
    "migration": ("simulations", kill_in_migration),
    "training": ("training", kill_in_training),
    "evaluation": ("evaluation", kill_in_evaluation),
}
"""What is held back at first, and what kills the endpoint, in each phase."""

ONCE = ["evaluate", "sim 0", "sim 1", "sim 2", "sim 3", "train"]


@pytest.mark.parametrize("phase", KILLS)
async def test_a_run_goes_on_in_the_phase_in_which_its_endpoint_was_killed(lab, phase):
    held, kill = KILLS[phase]
    lab.hold(held)
    await lab.workflows.start_workflow(lab.workflow(), RESOURCE)
    await kill(lab)
    await lab.site.start_endpoint("hub", "xgfabric")
    state = await lab.workflows.wait_workflow(PATIENCE)
    assert (state["status"], state["error"]) == ("completed", None), state["log"]
    assert sorted(lab.lines()) == ONCE
    assert sorted(set(lab.lines("begun")) - {"read"}) == ONCE
    assert len([line for line in lab.lines("begun") if line != "read"]) == len(ONCE)
    report = await lab.workflows.get_report()
    assert report["phase_seconds"] == pytest.approx(report["end_to_end_seconds"], rel=0.05)
    await until(lambda: not lab.pilots(), PATIENCE)
    children = (await lab.bridge.request("GET", "/big/psij/children"))["children"]
    assert {child["stage"] for child in children} == {"over"}


@asynccontextmanager
async def open_alone(folder):
    """Open a site whose one endpoint serves all, so that what it runs dies with it."""
    async with open_site(folder) as site:
        await site.start_endpoint("hub", ALONE)
        async with site.client() as bridge:
            yield await Lab.open(site, folder, bridge)


ALONE = "xgfabric,rhapsody,staging"


@pytest.mark.parametrize("outlives", [True, False], ids=["orphans end", "orphans are ended"])
async def test_what_ended_after_its_endpoint_did_is_not_run_again(tmp_path, outlives):
    async with open_alone(tmp_path) as lab:
        lab.hold("simulations")
        workflow = {**lab.workflow(), "sources": [], "mock_sensor_data": True}
        await lab.workflows.start_workflow(workflow)
        await lab.until_begun("sim 0")
        await lab.until_begun("sim 1")
        await lab.site.kill("hub")
        if outlives:
            lab.let_go("simulations")
            await until(lambda: sorted(lab.lines()) == ["sim 0", "sim 1"], PATIENCE)
            await until(lambda: len(list(tmp_path.rglob("notes/sim-*"))) == 2, PATIENCE)
        await lab.site.start_endpoint("hub", ALONE)
        if not outlives:
            lab.let_go("simulations")
        state = await lab.workflows.wait_workflow(PATIENCE)
        assert (state["status"], state["error"]) == ("completed", None), state["log"]
        assert sorted(lab.lines()) == ONCE
        assert lab.lines("begun").count("sim 0") == (1 if outlives else 2)


async def test_a_run_that_was_stopped_does_not_go_on_after_its_endpoint_was_killed(lab):
    lab.hold("simulations")
    await lab.workflows.start_workflow(lab.workflow(), RESOURCE)
    await lab.until_begun("sim 1")
    lab.freeze("big")
    async with anyio.create_task_group() as group:

        async def stop():
            with pytest.raises(AWAY):
                await lab.workflows.stop_workflow()

        group.start_soon(stop)
        await lab.until_phase("clearing")
        await lab.site.kill("hub")
    lab.thaw("big")
    await lab.site.start_endpoint("hub", "xgfabric")
    state = await lab.workflows.wait_workflow(PATIENCE)
    assert (state["status"], state["error"]) == ("failed", "cancelled by user")
    await until(lambda: not lab.pilots(), PATIENCE)
    assert lab.lines() == []
