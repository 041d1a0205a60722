"""Runs whose endpoint stops and comes back, or whose disk is full."""

import json
import logging
from typing import Any

import pytest
from orbit_xgfabric.client import XGFabricClient
from orbit_xgfabric.engine import STEPS

from orbit_core.errors import StateUnavailable

pytestmark = pytest.mark.anyio

Lab = Any
ONCE = ["evaluate", "sim 0", "sim 1", "sim 2", "sim 3", "train"]


async def limit_disk(lab: Lab, pages: int) -> None:
    """Have the endpoint's disk full, or not."""
    store = lab.deployment.endpoints["hub"].host.store
    await store.execute(lambda found: found.execute(f"PRAGMA max_page_count = {pages}"))


async def test_a_run_goes_on_when_its_endpoint_stopped_in_order(
    lab: Lab, user: XGFabricClient, targets: dict[str, str]
) -> None:
    lab.gate.touch()
    started = await user.start_workflow(lab.workflow())
    await lab.until(lambda: lab.begun() == ["0", "1"])
    await lab.end("hub")
    lab.gate.unlink()
    await lab.start("hub", targets["xgfabric"])
    state = await lab.finish(user)
    assert (state["status"], state["run_id"]) == ("completed", started["run_id"])
    assert lab.lines() == ONCE
    assert lab.begun() == ["0", "1", "2", "3"]


async def test_nothing_is_left_of_a_run_whose_session_did_not_come_back(
    lab: Lab, user: XGFabricClient, targets: dict[str, str]
) -> None:
    lab.gate.touch()
    await user.start_workflow(lab.workflow())
    await lab.until(lambda: lab.begun() == ["0", "1"])
    await lab.end("hub")
    space = "plugin/xgfabric/sessions"
    assert lab.change_state("DELETE FROM documents WHERE space = ?", space) == 1
    await lab.start("hub", targets["xgfabric"])
    await lab.until(lambda: lab.processes() == [])
    again = await lab.user()

    async def is_forgotten() -> bool:
        return await again.list_runs() == []

    await lab.until(is_forgotten)


@pytest.mark.parametrize(
    ("space", "key", "value"),
    [
        ("plugin/xgfabric/runs", "", {"run_id": 3}),
        ("plugin/xgfabric/simulations", "/0", {"number": "none"}),
    ],
    ids=["run", "simulation"],
)
async def test_a_run_that_cannot_be_read_harms_no_other(
    lab: Lab,
    user: XGFabricClient,
    targets: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    space: str,
    key: str,
    value: dict[str, Any],
) -> None:
    first = await lab.run(user, num_simulations=1)
    await lab.run(user, num_simulations=1)
    await lab.end("hub")
    statement = "UPDATE documents SET value = ? WHERE space = ? AND key = ?"
    assert lab.change_state(statement, json.dumps(value), space, first["run_id"] + key) == 1
    await lab.start("hub", targets["xgfabric"])
    assert f"run {first['run_id']} does not come back" in caplog.text
    assert [run["status"] for run in await user.list_runs()] == ["completed"]


async def test_a_run_whose_workflow_is_no_valid_one_any_more_harms_no_other(
    lab: Lab, user: XGFabricClient, targets: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    await lab.run(user, num_simulations=1)
    await lab.end("hub")
    statement = (
        "UPDATE documents SET value = json_set(CAST(value AS TEXT), '$.workflow.batch_size', 0)"
        " WHERE space = ?"
    )
    assert lab.change_state(statement, "plugin/xgfabric/runs") == 1
    await lab.start("hub", targets["xgfabric"])
    assert "batch_size" in caplog.text
    assert await user.list_runs() == []
    assert (await lab.run(user, num_simulations=1))["status"] == "completed"


async def test_a_full_disk_keeps_a_run_from_its_beginning(lab: Lab, user: XGFabricClient) -> None:
    await limit_disk(lab, 1)
    with pytest.raises(StateUnavailable):
        await user.start_workflow(lab.workflow(description="x" * 10_000))
    await limit_disk(lab, 1_000_000)
    assert (await lab.run(user))["status"] == "completed"


async def test_a_full_disk_ends_a_run_and_a_series_that_go_on(
    lab: Lab, user: XGFabricClient, caplog: pytest.LogCaptureFixture
) -> None:
    lab.gate.touch()
    script = f"while [ -e {lab.gate} ]; do sleep 0.05; done; head -c 9000 /dev/zero | tr '\\0' x"
    task = lab.shell(f"echo >> {lab.directory}/begun; {script} >&2; exit 1")
    rules = {"trigger": "timer", "interval": 0.5}
    await user.start_workflow(
        lab.workflow(simulation_task=task, num_simulations=100, batch_size=100, continuous=rules)
    )
    await lab.until(lambda: lab.begun() != [])
    await limit_disk(lab, 1)
    lab.gate.unlink()
    state = await lab.finish(user)
    assert state["status"] == "failed"
    assert "free space or make it writable" in state["error"]
    assert "the end of a run is not written" in caplog.text
    await limit_disk(lab, 1_000_000)


async def test_a_bug_fails_the_run_and_leaves_its_traceback_in_the_log(
    lab: Lab, user: XGFabricClient, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    async def broken(run: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setitem(STEPS, "train", broken)
    with caplog.at_level(logging.ERROR):
        state = await lab.run(user)
    assert state["status"] == "failed"
    assert state["error"] == "the plugin failed: the log of its endpoint has the traceback"
    assert "ZeroDivisionError: a bug" in caplog.text
