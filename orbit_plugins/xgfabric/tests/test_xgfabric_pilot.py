"""Runs that go on at a pilot, which is a child endpoint in a process of its own."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import psutil
import pytest
from orbit_xgfabric.client import XGFabricClient

pytestmark = pytest.mark.anyio

Lab = Any
Opener = Callable[..., AbstractAsyncContextManager[Lab]]
PILOT = {"cluster_type": "allocate", "executor": "local", "tunnel": "none"}
RESOURCE = {"cluster_configs": {"big": PILOT}}
ONCE = ["evaluate", "sim 0", "sim 1", "sim 2", "sim 3", "train"]


@pytest.fixture
async def lab(open_lab: Opener, targets: dict[str, str]) -> AsyncIterator[Lab]:
    small, big = ["rhapsody", "staging"], ["psij", "staging"]
    async with open_lab(
        small=[targets[name] for name in small],
        big=[targets[name] for name in big],
        hub=[targets["xgfabric"]],
    ) as found:
        yield found


@pytest.fixture
async def user(lab: Lab) -> XGFabricClient:
    found: XGFabricClient = await lab.user()
    return found


def pilots(lab: Lab) -> list[int]:
    """Return the processes of the lab's pilots."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if "big.xgf-" in (line := " ".join(process.info["cmdline"] or []))
        and str(lab.directory) in line
    ]


def messages(state: dict[str, Any], level: str) -> list[str]:
    return [entry["message"] for entry in state["log"] if entry["level"] == level]


def linked(lab: Lab) -> list[str]:
    return [
        member.name
        for member in lab.deployment.bridge.registry.members
        if member.name.startswith("big.xgf-")
    ]


def sites(report: dict[str, Any], kind: str = "phase") -> list[tuple[str, str]]:
    return [
        (span["phase"], span["site"])
        for span in sorted(report["spans"], key=lambda span: span["began"])
        if span["kind"] == kind and span["phase"] in ("simulations", "migration", "training")
    ]


async def test_the_simulations_that_run_are_let_finish_before_the_run_goes_on_at_its_pilot(
    lab: Lab, user: XGFabricClient
) -> None:
    lab.gate.touch()
    await user.start_workflow(lab.workflow(), RESOURCE)
    await lab.until(lambda: lab.begun() == ["0", "1"] and linked(lab) != [])
    state = await user.get_status()
    (cluster,) = state["allocate_clusters"]
    assert state["pilot_jobs"] == {"big": cluster["pilot_job_id"]}
    assert lab.begun() == ["0", "1"]
    lab.gate.unlink()
    state = await lab.finish(user)
    assert (state["status"], state["error"]) == ("completed", None)
    assert (state["active_cluster"], state["completed_simulations"]) == ("big", 4)
    assert state["allocate_clusters"][0]["pilot_status"] == "landed"
    assert lab.lines() == ONCE
    assert lab.begun() == ["0", "1", "2", "3"]
    report = await user.get_report()
    assert sites(report) == [
        ("simulations", "small"),
        ("migration", "big"),
        ("simulations", "big"),
        ("training", "big"),
    ]
    assert [queue["site"] for queue in report["queues"]] == ["big"]
    assert report["queue_seconds"] > 0
    await lab.until(lambda: pilots(lab) == [])
    (results,) = (lab.directory / "state/endpoints/big").rglob("simulations")
    assert len(list(results.iterdir())) == 4


async def test_the_simulations_that_run_are_given_up_for_the_pilot_if_so_said(
    lab: Lab, user: XGFabricClient
) -> None:
    lab.gate.touch()
    await user.start_workflow(lab.workflow(migrate="abort"), RESOURCE)
    await lab.until(lambda: lab.begun() == ["0", "0", "1", "1"])
    assert (await user.get_status())["active_cluster"] == "big"
    lab.gate.unlink()
    state = await lab.finish(user)
    assert (state["status"], state["completed_simulations"]) == ("completed", 4)
    assert lab.lines() == ONCE
    assert sites(await user.get_report(), "task")[:4] == [("simulations", "big")] * 4


async def test_a_pilot_that_has_not_landed_is_not_waited_for_unless_so_said(
    lab: Lab, user: XGFabricClient
) -> None:
    state = await lab.run(user, RESOURCE, num_simulations=1)
    assert (state["status"], state["active_cluster"]) == ("completed", "small")
    assert "the pilot has not landed yet: going on at small" in messages(state, "warning")
    await lab.until(lambda: pilots(lab) == [])
    state = await lab.run(user, RESOURCE, num_simulations=1, timeouts={"pilot": 60})
    assert (state["status"], state["active_cluster"]) == ("completed", "big")
    await lab.until(lambda: pilots(lab) == [])


async def test_a_run_goes_on_where_it_is_if_its_pilot_fails(
    lab: Lab, targets: dict[str, str]
) -> None:
    await lab.end("big")
    broken = {"psij": {"children": {"setup": ["echo 'no such module' >&2; exit 3"]}}}
    await lab.start("big", targets["psij"], targets["staging"], settings=broken)
    user = await lab.user()
    state = await lab.run(user, RESOURCE, timeouts={"pilot": 60})
    assert (state["status"], state["active_cluster"]) == ("completed", "small")
    (told,) = messages(state, "error")
    assert "will not come" in told
    assert "no such module" in told
    assert state["allocate_clusters"][0]["pilot_status"] == "lost"


async def test_a_pilot_that_is_refused_fails_the_run_with_what_the_cluster_says(
    lab: Lab, user: XGFabricClient
) -> None:
    resource = {"cluster_configs": {"big": {**PILOT, "executor": "lsf"}}}
    state = await lab.run(user, resource)
    assert (state["status"], state["message"]) == ("failed", "failed in pilot_submit")
    assert "executor" in state["error"]


async def test_stopping_a_run_ends_its_pilot_and_its_tasks(lab: Lab, user: XGFabricClient) -> None:
    lab.gate.touch()
    await user.start_workflow(lab.workflow(), RESOURCE)
    await lab.until(lambda: lab.begun() == ["0", "1"] and pilots(lab) != [])
    await user.stop_workflow()
    assert (await user.get_status())["error"] == "cancelled by user"
    await lab.until(lambda: pilots(lab) == [] and lab.processes() == [])


async def test_a_session_that_ends_takes_its_run_with_it(lab: Lab, user: XGFabricClient) -> None:
    lab.gate.touch()
    await user.start_workflow(lab.workflow(), RESOURCE)
    await lab.until(lambda: lab.begun() == ["0", "1"] and pilots(lab) != [])
    await user.unregister_session()
    await lab.until(lambda: pilots(lab) == [] and lab.processes() == [])
    again = await lab.user()
    assert await again.list_runs() == []


async def test_what_is_left_at_a_cluster_that_was_away_goes_when_it_is_back(
    lab: Lab, targets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_xgfabric.runs.CLEARING", 0.1)
    user = await lab.user()
    lab.gate.touch()
    await user.start_workflow(lab.workflow(), RESOURCE)
    await lab.until(lambda: lab.begun() == ["0", "1"] and linked(lab) != [])
    await lab.end("big")
    await user.stop_workflow()
    assert pilots(lab) != []
    await lab.end("hub")
    await lab.start("hub", targets["xgfabric"])
    assert (await user.get_status())["error"] == "cancelled by user"
    await lab.start("big", targets["psij"], targets["staging"])
    await lab.until(lambda: pilots(lab) == [])


async def test_a_pilot_that_dies_at_work_fails_the_run_which_says_so(
    lab: Lab, user: XGFabricClient
) -> None:
    work = lab.directory / "work"  # for whose end the training waits, which outlives its pilot
    work.touch()
    wait = lab.shell(f"echo train >> {lab.log}; while [ -e {work} ]; do sleep 0.05; done")
    times = {"pilot": 60, "away": 1}
    changed = {"training_tasks": {"pcr": wait}, "timeouts": times, "num_simulations": 1}
    await user.start_workflow(lab.workflow(**changed), RESOURCE)
    await lab.until(lambda: "train" in lab.lines())
    for pid in pilots(lab):
        psutil.Process(pid).kill()
    state = await lab.finish(user)
    work.unlink()
    assert (state["status"], state["message"]) == ("failed", "failed in training")
    assert state["error"].startswith("pilot big.xgf-")
    assert "ended while the run needed it (" in state["error"]
    assert "ask for a longer duration" in state["error"]
