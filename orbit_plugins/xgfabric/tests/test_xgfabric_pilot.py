"""Runs that go on at a pilot, which is a child endpoint in a process of its own."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
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


def kill_pilots(lab: Lab) -> None:
    for pid in pilots(lab):
        psutil.Process(pid).kill()


async def until_landed(lab: Lab, user: XGFabricClient) -> None:
    async def is_told() -> bool:
        (cluster,) = (await user.get_status())["allocate_clusters"]
        return bool(cluster["pilot_status"] == "landed")

    await lab.until(is_told)


def has_lost(lab: Lab) -> bool:
    """Tell whether the loss of a pilot is on record."""
    runs = lab.deployment.endpoints["hub"].host.plugins.served["xgfabric"].plugin.runs
    return any(kept.record.lost_pilots for kept in runs.journal.all())


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


def phases(report: dict[str, Any]) -> list[str]:
    return [span["phase"] for span in report["spans"] if span["kind"] == "phase"]


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


class Queue:
    """What holds the pilots of the cluster ``big`` before they start, until it is opened."""

    def __init__(self, directory: Path) -> None:
        self._closed, self._jobs = directory / "closed", directory / "queued"
        self._closed.touch()
        setup = [
            f"echo $$ >> '{self._jobs}'",
            f"while [ -e '{self._closed}' ]; do sleep 0.05; done",
        ]
        self.settings = {"psij": {"children": {"setup": setup}}}

    def open(self) -> None:
        self._closed.unlink()

    def has_come(self) -> bool:
        """Tell whether a pilot waits here, or has waited."""
        return self._jobs.exists()

    def is_left(self) -> bool:
        """Tell whether every pilot that waited here is gone."""
        return not any(psutil.pid_exists(int(pid)) for pid in self._jobs.read_text().split())


@pytest.fixture
async def queue(lab: Lab, targets: dict[str, str]) -> Queue:
    found = Queue(lab.directory)
    await lab.end("big")
    await lab.start("big", targets["psij"], targets["staging"], settings=found.settings)
    return found


async def test_a_pilot_that_has_not_landed_is_not_waited_for_unless_so_said(
    lab: Lab, user: XGFabricClient, queue: Queue
) -> None:
    lab.gate.touch()
    await user.start_workflow(lab.workflow(num_simulations=1), RESOURCE)
    await lab.until(queue.has_come)
    lab.gate.unlink()
    state = await lab.finish(user)
    assert (state["status"], state["active_cluster"]) == ("completed", "small")
    assert "the pilot has not landed yet: going on at small" in messages(state, "warning")
    assert state["allocate_clusters"][0]["pilot_status"] == "dismissed"
    (told,) = (await user.get_report())["queues"]
    assert (told["site"], told["pilots"]) == ("big", 1)
    await lab.until(queue.is_left)
    queue.open()
    state = await lab.run(user, RESOURCE, num_simulations=1, timeouts={"pilot": 60})
    assert (state["status"], state["active_cluster"]) == ("completed", "big")
    await lab.until(lambda: pilots(lab) == [])


async def test_a_pilot_that_comes_too_late_is_cancelled_while_the_run_goes_on(
    lab: Lab, user: XGFabricClient, queue: Queue
) -> None:
    lab.gate.touch()
    await user.start_workflow({**held_training(lab), "timeouts": {}}, RESOURCE)
    await lab.until(queue.has_come)
    lab.gate.unlink()
    await lab.until(lambda: lab.lines().count("train") == 1)
    await lab.until(queue.is_left)
    state = await user.get_status()
    assert (state["phase"], state["active_cluster"]) == ("training", "small")
    (lab.directory / "work").unlink()
    assert (await lab.finish(user))["status"] == "completed"


async def test_a_pilot_that_cannot_be_dismissed_is_cancelled_at_the_end(
    lab: Lab,
    user: XGFabricClient,
    queue: Queue,
    targets: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orbit_xgfabric.pilots.ANSWER", 0.1)
    lab.gate.touch()
    await user.start_workflow({**held_training(lab), "timeouts": {}}, RESOURCE)
    await lab.until(lambda: lab.begun() == ["0"] and queue.has_come())
    await lab.end("big")
    lab.gate.unlink()
    await lab.until(lambda: lab.lines().count("train") == 1)
    told = messages(await user.get_status(), "warning")
    assert any("is cancelled at the end of the run" in line for line in told)
    await lab.start("big", targets["psij"], targets["staging"])
    (lab.directory / "work").unlink()
    assert (await lab.finish(user))["status"] == "completed"
    await lab.until(queue.is_left)


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


def held_training(lab: Lab) -> dict[str, Any]:
    """Return a workflow whose training waits for the end of the file ``work``, at a pilot."""
    work = lab.directory / "work"
    work.touch()
    script = f'echo train >> "{lab.log}"; while [ -e "{work}" ]; do sleep 0.05; done'
    changed = {
        "training_tasks": {"pcr": lab.shell(script)},
        "evaluation_task": None,
        "timeouts": {"pilot": 60, "away": 60},
        "num_simulations": 1,
    }
    return dict(lab.workflow(**changed))


async def test_a_pilot_that_dies_at_work_is_replaced_and_what_had_ended_is_not_repeated(
    lab: Lab, user: XGFabricClient
) -> None:
    await user.start_workflow(held_training(lab), RESOURCE)
    await lab.until(lambda: lab.lines().count("train") == 1)
    kill_pilots(lab)
    await lab.until(lambda: lab.lines().count("train") == 2)
    (lab.directory / "work").unlink()
    state = await lab.finish(user)
    assert (state["status"], state["error"]) == ("completed", None)
    (told,) = [line for line in messages(state, "warning") if "has ended" in line]
    assert re.fullmatch(
        r"pilot big\.xgf-\w+, job \d+ of big, has ended: .+; pilot 2 of at most 3 is submitted",
        told,
    )
    assert lab.lines().count("sim 0") == 1
    report = await user.get_report()
    assert [queue["pilots"] for queue in report["queues"]] == [2]
    assert phases(report)[-4:] == ["training", "pilot_submit", "training", "clearing"]
    await lab.until(lambda: pilots(lab) == [])


async def test_simulations_that_end_with_their_pilot_run_again_at_the_next(
    lab: Lab, user: XGFabricClient
) -> None:
    lab.gate.touch()
    await user.start_workflow(lab.workflow(migrate="abort"), RESOURCE)
    await lab.until(lambda: lab.begun() == ["0", "0", "1", "1"])
    kill_pilots(lab)
    lab.kill(str(lab.gate))
    await lab.until(lambda: lab.begun() == ["0", "0", "0", "1", "1", "1"])
    lab.gate.unlink()
    state = await lab.finish(user)
    assert (state["status"], state["completed_simulations"]) == ("completed", 4)
    assert lab.lines() == ONCE
    assert state["allocate_clusters"][0]["pilot_job_id"] == state["pilot_jobs"]["big"]


async def test_a_task_that_is_killed_with_its_pilot_runs_again_at_the_next(
    lab: Lab, user: XGFabricClient
) -> None:
    await user.start_workflow(held_training(lab), RESOURCE)
    await lab.until(lambda: lab.lines().count("train") == 1)
    lab.kill(str(lab.directory / "work"))
    kill_pilots(lab)
    await lab.until(lambda: lab.lines().count("train") == 2)
    (lab.directory / "work").unlink()
    assert (await lab.finish(user))["error"] is None


async def test_a_task_that_is_killed_alone_fails_the_run(
    lab: Lab, user: XGFabricClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_xgfabric.pilots.ENDING", 0.1)
    changed = {"training_tasks": {"pcr": lab.shell("kill -9 $$")}, "num_simulations": 1}
    state = await lab.run(user, RESOURCE, **changed, timeouts={"pilot": 60})
    assert re.fullmatch(
        r"train-pcr failed at big\.xgf-\w+: it ended with exit code 137.*", state["error"]
    )


async def test_a_pilot_that_dies_before_the_run_is_there_is_replaced_meanwhile(
    lab: Lab, user: XGFabricClient
) -> None:
    lab.gate.touch()
    workflow = lab.workflow(timeouts={"pilot": 60})
    await user.start_workflow(workflow, RESOURCE)
    await lab.until(lambda: lab.begun() == ["0", "1"])
    await until_landed(lab, user)
    kill_pilots(lab)
    await lab.until(lambda: any(name.endswith("-2") for name in linked(lab)))
    assert lab.begun() == ["0", "1"]
    lab.gate.unlink()
    state = await lab.finish(user)
    assert (state["status"], state["active_cluster"]) == ("completed", "big")
    assert lab.lines() == ONCE


async def test_a_run_that_waits_for_another_pilot_does_so_after_a_restart(
    lab: Lab, user: XGFabricClient, targets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(run: Any, cluster: str) -> Any:
        await anyio.sleep_forever()

    await user.start_workflow(held_training(lab), RESOURCE)
    await lab.until(lambda: lab.lines().count("train") == 1)
    with monkeypatch.context() as patch:
        patch.setattr("orbit_xgfabric.pilots.submit", broken)
        kill_pilots(lab)
        await lab.until(lambda: has_lost(lab))
        await lab.end("hub")
    await lab.start("hub", targets["xgfabric"])
    await lab.until(lambda: lab.lines().count("train") == 2)
    (lab.directory / "work").unlink()
    assert (await lab.finish(user))["error"] is None


async def test_a_pilot_that_replaces_another_is_not_waited_for_without_end(
    lab: Lab, user: XGFabricClient, targets: dict[str, str]
) -> None:
    workflow = held_training(lab)
    workflow["timeouts"]["replacement"] = 0
    await user.start_workflow(workflow, RESOURCE)
    await lab.until(lambda: "train" in lab.lines())
    kill_pilots(lab)
    state = await lab.finish(user)
    assert state["message"] == "failed in pilot_submit"
    assert "which replaces one that ended, has not landed within 0 s" in state["error"]
    assert (await user.get_report())["queues"][0]["pilots"] == 2
    await lab.until(lambda: pilots(lab) == [])


async def test_a_pilot_whose_cluster_has_forgotten_it_is_replaced(
    lab: Lab, user: XGFabricClient, targets: dict[str, str]
) -> None:
    await user.start_workflow(held_training(lab), RESOURCE)
    await lab.until(lambda: lab.lines().count("train") == 1)
    await lab.end("big")
    for pid in pilots(lab):  # which leaves in order, so that nobody waits for it
        psutil.Process(pid).terminate()
    statement = "DELETE FROM documents WHERE space IN (?, ?)"
    spaces = ("plugin/psij/jobs", "plugin/psij/children")
    assert lab.change_state(statement, *spaces, endpoint="big") == 2
    await lab.start("big", targets["psij"], targets["staging"])
    await lab.until(lambda: lab.lines().count("train") == 2)
    (lab.directory / "work").unlink()
    state = await lab.finish(user)
    assert any("big does not know its job any more" in one for one in messages(state, "warning"))


async def test_a_run_fails_at_once_when_the_last_of_its_pilots_dies(
    lab: Lab, user: XGFabricClient
) -> None:
    await user.start_workflow({**held_training(lab), "pilot_tries": 1}, RESOURCE)
    await lab.until(lambda: "train" in lab.lines())
    kill_pilots(lab)
    state = await lab.finish(user)
    assert (state["status"], state["message"]) == ("failed", "failed in training")
    assert re.fullmatch(
        r"pilot big\.xgf-\w+, job \d+ of big, has ended: .+; no other one is submitted, since "
        "pilot_tries is 1",
        state["error"],
    )


async def test_a_pilot_whose_job_was_cancelled_is_not_replaced(
    lab: Lab, user: XGFabricClient
) -> None:
    await user.start_workflow(held_training(lab), RESOURCE)
    await lab.until(lambda: "train" in lab.lines())
    hub = lab.deployment.endpoints["hub"].host.plugins.served["xgfabric"].plugin.context.hub
    jobs = await hub.get_endpoint_client("big").get_plugin("psij")
    await jobs.stop_child(linked(lab)[0])
    state = await lab.finish(user)
    assert state["message"] == "failed in training"
    assert state["error"].endswith("; a pilot whose job was cancelled is not replaced")
