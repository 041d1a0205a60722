import json
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from click.testing import CliRunner, Result
from orbit_xgfabric.client import XGFabricClient
from orbit_xgfabric.run_commands import Progress, bar

from orbit_core.cli import orbit
from orbit_core.testing import ALICE

pytestmark = pytest.mark.anyio

Lab = Any


class Shell:
    """Run the command line as alice does; it blocks, so in a thread of its own."""

    def __init__(self, options: list[str]) -> None:
        self._options = options

    async def __call__(self, *arguments: str, code: int = 0) -> Result:
        invoke = partial(CliRunner().invoke, orbit, [*self._options, "xgfabric", *arguments])
        with anyio.fail_after(120):
            result = await anyio.to_thread.run_sync(invoke)
        assert result.exit_code == code, result.output
        return result


@pytest.fixture
async def run(lab: Lab, user: XGFabricClient, tmp_path: Path) -> Shell:
    token = tmp_path / "token"
    token.write_text(await lab.deployment.token(ALICE))
    token.chmod(0o600)
    await user.save_config(lab.workflow(name="mine"))
    await user.save_config(lab.workflow(name="broken", simulation_task=lab.shell("exit 1")))
    shell = Shell(["--url", lab.deployment.url, "--token-file", str(token)])
    await lab.user("cli.alice")
    return shell


async def test_a_workflow_is_run_followed_and_reported_on_from_the_shell(
    lab: Lab, run: Shell, tmp_path: Path
) -> None:
    said = await run("run", "mine")
    lines = said.stderr.splitlines()
    assert lines[-1].startswith("[########################] 100 %     4/4  completed: completed: ")
    assert "completed: " in said.stdout.splitlines()[-1]
    assert any(line.startswith("simulations") for line in said.stdout.splitlines())
    status = (await run("status")).stdout
    assert "\nstatus: completed\n" in status
    assert " info: workflow mine begins\n" in status
    assert json.loads((await run("status", "--json")).stdout)["status"] == "completed"
    (row,) = json.loads((await run("runs", "--json")).stdout)
    assert row["run_id"] in (await run("runs")).stdout
    assert json.loads((await run("report", "--json")).stdout)["run_id"] == row["run_id"]
    assert "s in all" in (await run("report", row["run_id"])).stdout
    assert "task,simulations,small,sim-3," in (await run("report", "--csv")).stdout
    await run("report", "--svg", "--output", str(tmp_path / "run.svg"))
    assert (tmp_path / "run.svg").read_text().startswith("<svg")


async def test_a_run_that_fails_says_so_with_its_exit_code(run: Shell) -> None:
    said = await run("run", "broken", code=1)
    assert "the run failed in simulations: all 4 simulations failed" in said.stderr
    found = json.loads((await run("run", "broken", "--json", code=1)).stdout)
    assert (found["state"]["status"], found["report"]["status"]) == ("failed", "failed")


async def test_a_workflow_is_left_to_itself_and_stopped_from_the_shell(
    lab: Lab, run: Shell
) -> None:
    lab.gate.touch()
    (lab.directory / "winds.csv").write_text("dt,windspeed,windavg,winddir\n1,5,5,90\n")
    run_id = (await run("run", "mine", "--detach", "--replay", "winds.csv")).stdout.strip()
    await lab.until(lambda: lab.begun() == ["0", "1"])
    assert f"run_id: {run_id}\n" in (await run("status")).stdout
    assert (await run("stop")).stdout == "stopped\n"
    assert "cancelled by user" in (await run("runs")).stdout
    await run("stop", code=1)


def test_a_terminal_sees_one_line_that_changes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"phase": "training", "message": "training pcr", "progress": 60.0}
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "47")
    with Progress(silent=False) as progress:
        progress(state)
        progress(state)
    said = capsys.readouterr().err
    assert said == f"\r\x1b[K{bar(state)}  trai\n"
    assert bar(state) == "[##############..........]  60 %     0/0"
