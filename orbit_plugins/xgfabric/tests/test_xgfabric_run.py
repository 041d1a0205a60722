from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from orbit_xgfabric import InvalidConfig, UnknownConfig, WorkflowIdle, WorkflowRunning
from orbit_xgfabric.client import XGFabricClient

from orbit_core.errors import InvalidBody

pytestmark = pytest.mark.anyio

Lab = Any
Opener = Callable[..., AbstractAsyncContextManager[Lab]]


def messages(state: dict[str, Any], level: str) -> list[str]:
    return [entry["message"] for entry in state["log"] if entry["level"] == level]


def written(lab: Lab, name: str) -> list[Path]:
    return list((lab.directory / "state").rglob(name))


async def test_a_run_goes_through_every_phase_and_leaves_its_results(
    lab: Lab, user: XGFabricClient
) -> None:
    phases: list[str] = []
    bridge = await lab.bridge()

    def hear(endpoint: str, plugin: str, topic: str, state: dict[str, Any]) -> None:
        assert (endpoint, plugin, topic) == ("hub", "xgfabric", "workflow_status")
        if state["phase"] not in phases[-1:]:
            phases.append(state["phase"])

    user.register_notification_callback(hear, "workflow_status")
    await bridge.wait_for_listener()
    state = await lab.run(user)
    assert (state["status"], state["error"], state["progress"]) == ("completed", None, 100.0)
    assert state["completed_simulations"] == state["total_simulations"] == 4
    assert state["current_batch"] == state["total_batches"] == 2
    assert state["active_cluster"] == "small"
    assert [cluster["name"] for cluster in state["immediate_clusters"]] == ["small"]
    await lab.until(lambda: phases[-1] == "completed")
    assert phases == [
        "initializing",
        "connecting",
        "verifying",
        "data_acquisition",
        "staging",
        "simulations",
        "training",
        "evaluation",
        "clearing",
        "completed",
    ]
    assert lab.lines() == ["evaluate", "sim 0", "sim 1", "sim 2", "sim 3", "train"]
    (evaluated,) = written(lab, "evaluated")
    names = evaluated.read_text().split()
    assert len(names) == 4
    assert all(name.startswith("sim_") and "_ws_" in name and "_wd_" in name for name in names)
    (data,) = written(lab, "sensor_out.csv")
    assert data.read_text().startswith("dt,windspeed,windavg,winddir\n")


async def test_the_phases_of_a_report_add_up_to_the_time_from_end_to_end(
    lab: Lab, user: XGFabricClient
) -> None:
    state = await lab.run(user)
    report = await user.get_report()
    assert report["run_id"] == state["run_id"]
    assert report["phase_seconds"] == pytest.approx(report["end_to_end_seconds"], rel=0.05)
    tasks = {span["label"] for span in report["spans"] if span["kind"] == "task"}
    assert tasks == {"sim-0", "sim-1", "sim-2", "sim-3", "train-pcr", "evaluate"}
    assert (await user.get_report_text("csv", state["run_id"])).count("\n") == 1 + len(
        report["spans"]
    )
    assert (await user.get_report_text("svg")).startswith("<svg")


async def test_one_simulation_that_fails_keeps_nobody_and_its_last_words_are_told(
    lab: Lab, user: XGFabricClient
) -> None:
    script = 'if [ "$1" = 1 ]; then echo "mesh is broken" >&2; exit 3; fi; echo "$1" > "$2"'
    task = lab.shell(script, "{sim_id}", "{sim_output_file}")
    state = await lab.run(user, simulation_task=task)
    assert (state["status"], state["completed_simulations"]) == ("completed", 3)
    assert messages(state, "error") == [
        "sim-1 failed at small: it ended with exit code 3: mesh is broken"
    ]
    (evaluated,) = written(lab, "evaluated")
    assert len(evaluated.read_text().split()) == 3


async def test_a_run_fails_if_all_simulations_do(lab: Lab, user: XGFabricClient) -> None:
    state = await lab.run(user, simulation_task=lab.shell("exit 1"))
    assert state["status"] == "failed"
    assert state["error"] == ("all 4 simulations failed: the log has the last words of each")
    assert state["message"] == "failed in simulations"
    assert len(messages(state, "error")) == 5
    assert lab.lines() == []


@pytest.mark.parametrize(
    ("step", "phase", "told"),
    [("training_tasks", "training", "train-pcr"), ("evaluation_task", "evaluation", "evaluate")],
    ids=["training", "evaluation"],
)
async def test_a_run_fails_with_a_step_that_does(
    lab: Lab, user: XGFabricClient, step: str, phase: str, told: str
) -> None:
    task = lab.shell("echo 'no GPU' >&2; exit 2")
    changed = {"pcr": task} if step == "training_tasks" else task
    state = await lab.run(user, **{step: changed})
    assert state["error"] == f"{told} failed at small: it ended with exit code 2: no GPU"
    assert (state["status"], state["message"]) == ("failed", f"failed in {phase}")


async def test_a_workflow_may_end_with_its_training(lab: Lab, user: XGFabricClient) -> None:
    state = await lab.run(user, evaluation_task=None, train_models=[])
    assert state["status"] == "completed"
    assert lab.lines() == ["sim 0", "sim 1", "sim 2", "sim 3"]
    assert any("no evaluation_task" in message for message in messages(state, "info"))


async def test_a_session_runs_one_workflow_at_a_time_and_stops_it_at_once(
    lab: Lab, user: XGFabricClient
) -> None:
    with pytest.raises(WorkflowIdle, match="there is nothing to stop") as idle:
        await user.stop_workflow()
    assert idle.value.status_code == 409
    lab.gate.touch()
    await user.start_workflow(lab.workflow())
    await lab.until(lambda: lab.begun() == ["0", "1"])
    with pytest.raises(WorkflowRunning, match="stop it, or use another session") as running:
        await user.start_workflow(lab.workflow())
    assert running.value.status_code == 409
    assert await user.stop_workflow() == {"status": "stopped"}
    state = await user.get_status()
    assert (state["status"], state["error"]) == ("failed", "cancelled by user")
    assert lab.processes() == []
    with pytest.raises(WorkflowIdle):
        await user.stop_workflow()
    assert lab.lines() == []


async def test_a_run_waits_for_its_cluster_and_then_says_what_the_others_lack(
    open_lab: Opener, targets: dict[str, str]
) -> None:
    async with open_lab(hub=[targets["xgfabric"]], files=[targets["staging"]]) as lab:
        user = await lab.user()
        clusters = {"files": {"cluster_type": "immediate"}, "hub": {"cluster_type": "allocate"}}
        resource = {"cluster_configs": clusters}
        state = await lab.run(user, resource, timeouts={"connect": 0.1})
        assert state["status"] == "failed"
        assert state["error"] == (
            "no immediate cluster was connected within 0.1 s: start an endpoint with the plugins "
            "rhapsody and staging, or set its cluster_type. Connected: files serves no rhapsody, "
            "hub serves no rhapsody and no staging"
        )
        await user.start_workflow(lab.workflow())
        await lab.until_phase(user, "connecting")
        await lab.start("late", targets["rhapsody"], targets["staging"])
        state = await lab.finish(user)
        assert (state["status"], state["active_cluster"]) == ("completed", "late")


async def test_a_cluster_that_stays_away_fails_the_run(
    lab: Lab, user: XGFabricClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_xgfabric.runs.CLEARING", 0.1)
    lab.gate.touch()
    await user.start_workflow(lab.workflow(timeouts={"away": 0.5}))
    await lab.until(lambda: lab.begun() == ["0", "1"])
    await lab.end("small")
    state = await lab.finish(user)
    assert state["message"] == "failed in simulations"
    assert state["error"].startswith("cluster small has been away for 0.5 s: ")


async def test_the_state_tells_which_clusters_are_online(
    lab: Lab, user: XGFabricClient, targets: dict[str, str]
) -> None:
    seen: list[bool] = []

    def hear(endpoint: str, plugin: str, topic: str, state: dict[str, Any]) -> None:
        seen.extend(cluster["online"] for cluster in state["immediate_clusters"])

    user.register_notification_callback(hear, "workflow_status")
    await (await lab.bridge()).wait_for_listener()
    lab.gate.touch()
    await user.start_workflow(lab.workflow())
    await lab.until(lambda: lab.begun() == ["0", "1"] and seen[-1:] == [True])
    await lab.end("small")
    await lab.until(lambda: seen[-1:] == [False])
    lab.gate.unlink()
    await lab.start("small", targets["rhapsody"], targets["staging"])
    await lab.until(lambda: seen[-1:] == [True])
    state = await lab.finish(user)
    assert [cluster["online"] for cluster in state["immediate_clusters"]] == [True]


async def test_a_cluster_that_comes_back_in_time_goes_on_and_nothing_runs_to_its_end_twice(
    lab: Lab, user: XGFabricClient, targets: dict[str, str]
) -> None:
    lab.gate.touch()
    await user.start_workflow(lab.workflow())
    await lab.until(lambda: lab.begun() == ["0", "1"])
    await lab.end("small")
    lab.gate.unlink()
    await lab.start("small", targets["rhapsody"], targets["staging"])
    state = await lab.finish(user)
    assert state["status"] == "completed"
    assert lab.lines() == ["evaluate", "sim 0", "sim 1", "sim 2", "sim 3", "train"]


async def test_a_workspace_that_staging_does_not_allow_fails_before_anything_is_acquired(
    lab: Lab, user: XGFabricClient
) -> None:
    state = await lab.run(user, {"cluster_configs": {"small": {"workflow_path": "/opt/cups"}}})
    assert state["message"] == "failed in verifying"
    assert "/opt/cups is not yours to use" in state["error"]


async def test_the_wind_data_is_not_written_where_it_cannot_be(
    lab: Lab, user: XGFabricClient
) -> None:
    (lab.directory / "local").write_text("a file")
    state = await lab.run(user)
    assert state["message"] == "failed in staging"
    assert "see local_workspace" in state["error"]


async def test_the_default_workflow_needs_the_sensors_program(
    lab: Lab, user: XGFabricClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSPOT_PATH", "/nowhere/senspot-get")
    started = await user.start_workflow()
    assert (started["status"], started["config"]) == ("started", "default")
    state = await lab.finish(user)
    assert state["message"] == "failed in data_acquisition"
    assert "senspot-get cannot be run" in state["error"]


async def test_a_workflow_that_could_not_finish_is_refused_before_it_begins(
    lab: Lab, user: XGFabricClient
) -> None:
    wrong = lab.workflow(simulation_task=lab.shell("echo {wind_sped}"))
    with pytest.raises(InvalidConfig, match=r"unknown placeholder \{wind_sped\}"):
        await user.start_workflow(wrong)
    with pytest.raises(UnknownConfig):
        await user.start_workflow("tset")
    with pytest.raises(InvalidBody, match="workflow must be a configuration"):
        await user.start_workflow(3)  # type: ignore[arg-type]  # as a careless program does
    assert (await user.get_status())["status"] == "idle"


async def test_a_replayed_file_is_what_the_simulations_are_chosen_from(
    lab: Lab, user: XGFabricClient
) -> None:
    rows = ["dt,windspeed,windavg,winddir", "1700000000,4.0,4.0,90.0", "1700000300,8.0,8.0,180.0"]
    (lab.directory / "winds.csv").write_text("\n".join(rows) + "\n")
    state = await lab.run(user, replay="winds.csv", num_simulations=2)
    assert state["status"] == "completed"
    (evaluated,) = written(lab, "evaluated")
    assert sorted(evaluated.read_text().split()) == [
        "sim_0_ws_8_wd_180.csv",
        "sim_1_ws_4_wd_90.csv",
    ]


@pytest.mark.parametrize(
    ("gone", "phase"), [("small", "staging"), ("big", "pilot_submit")], ids=["staging", "pilot"]
)
async def test_a_cluster_that_goes_away_early_fails_the_run_in_that_phase(
    lab: Lab,
    user: XGFabricClient,
    targets: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    gone: str,
    phase: str,
) -> None:
    monkeypatch.setattr("orbit_xgfabric.runs.CLEARING", 0.1)
    sensor = lab.directory / "senspot-get"
    wait = f"while [ -e '{lab.gate}' ]; do sleep 0.05; done"
    line = "echo '9:9:9 time: 1700000000.0000000000 192.0.2.1 seq_no: 1'"
    sensor.write_text(f"#!/bin/sh\n{wait}\n{line}\n")
    sensor.chmod(0o755)
    monkeypatch.setenv("SENSPOT_PATH", str(sensor))
    lab.gate.touch()
    clusters = {}
    if gone == "big":
        await lab.start("big", targets["psij"], targets["staging"])
        clusters = {"big": {"cluster_type": "allocate", "executor": "local"}}
    changed = {"mock_sensor_data": False, "timeouts": {"away": 0.5}}
    await user.start_workflow(lab.workflow(**changed), {"cluster_configs": clusters})
    await lab.until_phase(user, "data_acquisition")
    await lab.end(gone)
    lab.gate.unlink()
    state = await lab.finish(user)
    assert state["message"] == f"failed in {phase}"
    assert state["error"].startswith(f"cluster {gone} has been away for 0.5 s: ")


async def test_the_state_tells_how_many_tasks_run_while_they_do(
    lab: Lab, user: XGFabricClient
) -> None:
    seen: list[tuple[str, int]] = []

    def hear(endpoint: str, plugin: str, topic: str, state: dict[str, Any]) -> None:
        seen.extend((state["phase"], one["tasks_running"]) for one in state["immediate_clusters"])

    user.register_notification_callback(hear, "workflow_status")
    await (await lab.bridge()).wait_for_listener()
    lab.gate.touch()
    work = lab.directory / "work"
    work.touch()
    train = lab.shell(f'while [ -e "{work}" ]; do sleep 0.05; done')
    await user.start_workflow(
        lab.workflow(batch_size=4, training_tasks={"pcr": train}, evaluation_task=None)
    )
    await lab.until(lambda: seen[-1:] == [("simulations", 4)])
    lab.gate.unlink()
    await lab.until(lambda: seen[-1:] == [("training", 1)])
    work.unlink()
    state = await lab.finish(user)
    assert [cluster["tasks_running"] for cluster in state["immediate_clusters"]] == [0]


async def test_a_run_that_is_stopped_has_no_tasks_running(lab: Lab, user: XGFabricClient) -> None:
    lab.gate.touch()
    await user.start_workflow(lab.workflow())

    async def tasks_run() -> bool:
        state = await user.get_status()
        return [cluster["tasks_running"] for cluster in state["immediate_clusters"]] == [2]

    await lab.until(tasks_run)
    await user.stop_workflow()
    assert (await user.get_status())["immediate_clusters"][0]["tasks_running"] == 0


async def test_a_cluster_that_is_configured_and_missing_is_skipped_by_name(
    lab: Lab, user: XGFabricClient, targets: dict[str, str]
) -> None:
    await lab.start("files", targets["staging"])
    clusters = {"small": {}, "anvil": {"cluster_type": "allocate"}, "files": {}}
    state = await lab.run(user, {"cluster_configs": clusters}, timeouts={"connect": 0.1})
    assert state["status"] == "completed"
    why = {"anvil": "is not connected", "files": "serves no rhapsody"}
    assert state["skipped_clusters"] == why
    assert messages(state, "warning") == [
        "cluster files of the resources is skipped: it serves no rhapsody",
        "cluster anvil of the resources is skipped: it is not connected",
    ]
    assert (await user.get_report())["skipped"] == why


async def test_a_run_waits_a_while_for_every_cluster_that_is_configured(
    lab: Lab, user: XGFabricClient, targets: dict[str, str]
) -> None:
    clusters = {"late": {}, "small": {}}
    await user.start_workflow(lab.workflow(), {"cluster_configs": clusters})
    state = await lab.until_phase(user, "connecting")
    assert state["message"] == "waiting for late"
    await lab.start("late", targets["rhapsody"], targets["staging"])
    state = await lab.finish(user)
    assert (state["status"], state["active_cluster"]) == ("completed", "late")
    assert state["skipped_clusters"] == {}


async def test_programs_are_not_sought_at_a_cluster_that_stands_in_for_another(
    lab: Lab, user: XGFabricClient
) -> None:
    task = lab.shell("{workflow_path}/run.sh")
    changed = {"simulation_task": task, "timeouts": {"connect": 0.1}}
    state = await lab.run(user, {"cluster_configs": {"ucsb": {}}}, **changed)
    assert state["message"] == "failed in connecting"
    assert state["error"].endswith(
        "Connected: hub serves no rhapsody and no staging, small is not configured, and the tasks "
        "need a workflow_path. Configured, but not connected: ucsb"
    )


async def test_no_job_is_submitted_at_a_cluster_that_stands_in_for_another(
    lab: Lab, user: XGFabricClient, targets: dict[str, str]
) -> None:
    queue = f"queue_info={targets['staging']}"
    await lab.start("other", targets["psij"], targets["staging"], queue)
    state = await lab.run(user, {"cluster_configs": {"anvil": {}}}, timeouts={"connect": 0.1})
    assert (state["status"], state["allocate_clusters"]) == ("completed", [])
    assert (await user.get_report())["queues"] == []
