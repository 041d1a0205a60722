"""The default workflow from sensors to evaluation, with a pilot in a real batch job.

The programs, which stand in for OpenFOAM and the models, and ``senspot-get`` are written here; all
else is real. ``sensors`` keeps the run and is the immediate cluster, ``login`` the one with SLURM.
"""

import json
import os
import signal

import attrs
import pytest

from orbit_core.errors import GatewayTimeout, NotFound, Unavailable
from tests.processes import open_site
from tests.waiting import until

pytestmark = [pytest.mark.site, pytest.mark.anyio]

PATIENCE = 180.0
AWAY = (GatewayTimeout, NotFound, Unavailable)
PLUGINS = {"sensors": "xgfabric,rhapsody,staging", "login": "psij,staging,queue_info"}

SENSPOT = """#!/bin/sh
# Print the record that -S names, else the 500th, as CSPOT's senspot-get does.
while [ -e {hold}-data ]; do sleep 0.1; done
number=500
if [ "$3" = -S ]; then number=$4; fi
printf '%s:%s:%s:4:61:5:90 time: %s.0000000000 128.111.45.61 seq_no: %s\\n' \\
    "$((number % 17 + 4)).5" "$((number % 17 + 4)).1" "$((number * 37 % 360))" \\
    "$((1700000000 + 300 * number))" "$number"
"""
SIMULATION = """#!/bin/sh
# runme.sh STRUCTURE RANKS SPEED 0.0 0.0 OUTPUT "1 4 1" ID DIRECTION
[ "$#" = 9 ] && [ "$2" = 32 ] && [ "$7" = "1 4 1" ] || exit 2
echo "sim $8 at ${{SLURM_JOB_ID:+slurm}}" >> {log}.begun
while [ -e {hold} ]; do sleep 0.1; done
sleep 0.5
echo "$3,$9" > "$6/sim_$8_ws_$3_wd_$9.csv"
echo "sim $8" >> {log}
"""
TRAINING = """#!/bin/sh
# SENSOR-DIR --simulations-dir DIRECTORY --output-dir DIRECTORY
head -n 1 "$1/sensor_out.csv" | grep -q '^dt,windspeed,windavg,winddir$' || exit 2
cat "$3"/sim_*.csv > "$5/points.csv"
echo "train $(basename "$5")" >> {log}
"""
PYTHON_TRAINING = """import pathlib, sys
_, data, _, simulations, _, output = sys.argv
points = [path.read_text() for path in sorted(pathlib.Path(simulations).glob("sim_*.csv"))]
pathlib.Path(output, "points.csv").write_text("".join(points))
with open({log!r}, "a") as log:
    log.write("train " + pathlib.Path(output).name + "\\n")
"""
EVALUATION = """import pathlib, sys
_, data, output = sys.argv
models = pathlib.Path(output).parent / "models"
counts = {{path.name: len((path / "points.csv").read_text().split()) for path in models.iterdir()}}
pathlib.Path(output, "evaluation.txt").write_text(repr(sorted(counts.items())))
with open({log!r}, "a") as log:
    log.write("evaluate\\n")
"""
ONCE = sorted(
    [f"sim {number}" for number in range(16)] + ["train fno", "train pcr", "train pinn", "evaluate"]
)


def write_programs(folder):
    """Write what the default workflow runs, in the places where it looks."""
    names = {"log": str(folder / "log"), "hold": str(folder / "hold")}
    programs = {
        "senspot-get": SENSPOT.format(**names),
        "cups/simulation/runme.sh": SIMULATION.format(**names),
        "cups/training/pcr.sh": TRAINING.format(**names),
        "cups/training/pinn.py": PYTHON_TRAINING.format(**names),
        "cups/training/fno.py": PYTHON_TRAINING.format(**names),
        "cups/evaluation/evaluate.py": EVALUATION.format(**names),
    }
    for place, text in programs.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    settings = folder / "config" / "orbit" / "orbit.toml"
    settings.parent.mkdir(parents=True)
    cups = json.dumps(str(folder / "cups"))
    settings.write_text(f'[plugin.staging.roots]\n{cups} = ["endpoint:sensors"]\n')


@attrs.define(eq=False)
class Lab:
    """Be the site of one workflow; the simulations wait while they are held."""

    site: object
    folder: object
    cluster: object
    bridge: object
    workflows: object

    @property
    def hold(self):
        return self.folder / "hold"

    def lines(self, name="log"):
        path = self.folder / name
        return sorted(path.read_text().split("\n")[:-1]) if path.exists() else []

    async def start(self):
        """Start the default workflow, the pilot of which is asked for at ``login``."""
        path = str(self.folder / "cups")
        pilot = {"queue": "batch", "duration": 600, "nodes": 1, "executor": "slurm"}
        resource = {
            "cluster_configs": {
                "sensors": {"workflow_path": path},
                "login": {"workflow_path": path, **pilot},
            }
        }
        changed = {"local_workspace": str(self.folder / "local"), "timeouts": {"pilot": PATIENCE}}
        await self.workflows.start_workflow(
            {**await self.workflows.get_default_config(), **changed}, resource
        )

    async def until_state(self, condition):
        async def holds():
            try:
                return condition(await self.workflows.get_status())
            except AWAY:
                return False

        await until(holds, PATIENCE)

    async def until_landed(self):
        async def has_landed():
            rows = (await self.bridge.request("GET", "/endpoints"))["endpoints"]
            return any(row["name"].startswith("login.xgf-") and row["connected"] for row in rows)

        await until(has_landed, PATIENCE)

    def freeze(self):
        """Have the login endpoint answer nobody."""
        os.kill(self.site.pid("login"), signal.SIGSTOP)

    async def kill(self, phase):
        """Kill the endpoint of the run, which waits in a phase for the login endpoint."""
        await self.until_state(lambda state: state["phase"] == phase)
        await self.site.kill("sensors")
        os.kill(self.site.pid("login"), signal.SIGCONT)
        await self.site.start_endpoint("sensors", PLUGINS["sensors"])

    async def finish(self):
        return await self.workflows.wait_workflow(PATIENCE)

    async def check(self, state):
        """See that a run did everything once, and that nothing is left of it."""
        assert (state["status"], state["error"]) == ("completed", None), state["log"]
        assert (state["completed_simulations"], state["active_cluster"]) == (16, "login")
        assert self.lines() == ONCE
        (evaluated,) = (self.folder / "cups").rglob("evaluation.txt")
        assert evaluated.read_text() == "[('fno', 16), ('pcr', 16), ('pinn', 16)]"
        report = await self.workflows.get_report()
        assert report["phase_seconds"] == pytest.approx(report["end_to_end_seconds"], rel=0.05)
        assert [queue["site"] for queue in report["queues"]] == ["login"]
        await until(lambda: self.cluster.run("squeue", "--noheader") == "", PATIENCE)
        return report


@pytest.fixture
async def lab(cluster, tmp_path, monkeypatch):
    write_programs(tmp_path)
    monkeypatch.setenv("SENSPOT_PATH", str(tmp_path / "senspot-get"))
    async with open_site(tmp_path) as site:
        await site.start_endpoint("login", PLUGINS["login"], **cluster.environment)
        await site.start_endpoint("sensors", PLUGINS["sensors"])
        async with site.client() as bridge:
            endpoint = bridge.get_endpoint_client("sensors")
            session = {"sid": "lab", "lifetime": "persistent"}
            workflows = await endpoint.get_plugin("xgfabric", **session)
            yield Lab(site, tmp_path, cluster, bridge, workflows)


async def test_the_default_workflow_goes_from_the_sensors_to_the_pilot_and_ends(lab):
    lab.hold.touch()
    await lab.start()
    await lab.until_landed()
    state = await lab.workflows.get_status()
    assert [one["name"] for one in state["immediate_clusters"]] == ["sensors"]
    assert [one["name"] for one in state["allocate_clusters"]] == ["login"]
    lab.hold.unlink()
    report = await lab.check(await lab.finish())
    places = dict.fromkeys(
        (span["phase"], span["site"]) for span in report["spans"] if span["kind"] == "task"
    )
    assert list(places) == [
        ("simulations", "sensors"),
        ("simulations", "login"),
        ("training", "login"),
        ("evaluation", "login"),
    ]
    begun = lab.lines("log.begun")
    assert len(begun) == 16
    assert len([line for line in begun if line.endswith("slurm")]) == 12


async def test_a_run_goes_on_when_its_endpoint_was_killed_as_it_submitted_its_pilot(lab):
    data = lab.folder / "hold-data"
    data.touch()
    await lab.start()
    await lab.until_state(lambda state: state["phase"] == "data_acquisition")
    lab.freeze()
    data.unlink()
    await lab.kill("pilot_submit")
    await lab.check(await lab.finish())


async def test_a_run_goes_on_when_its_endpoint_was_killed_as_it_staged(lab):
    await lab.start()
    await lab.until_state(lambda state: state["pilot_jobs"] != {})
    lab.freeze()
    await lab.kill("staging")
    await lab.check(await lab.finish())


async def test_a_run_goes_on_when_its_endpoint_was_killed_as_it_migrated(lab):
    lab.hold.touch()
    await lab.start()
    await until(lambda: len(lab.lines("log.begun")) == 4, PATIENCE)
    await lab.until_landed()
    lab.freeze()
    lab.hold.unlink()
    await lab.kill("migration")
    await lab.check(await lab.finish())
