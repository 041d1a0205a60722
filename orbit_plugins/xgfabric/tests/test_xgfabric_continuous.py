"""Workflows that run again and again."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from orbit_xgfabric import WorkflowIdle, WorkflowRunning
from orbit_xgfabric.client import XGFabricClient

pytestmark = pytest.mark.anyio

Lab = Any
Opener = Callable[..., AbstractAsyncContextManager[Lab]]

COMPLETED = ("completed", None)

SENSOR = """#!/bin/sh
# Print the newest record: the speed and direction, and the number, that a file has.
read -r number speed direction < "{newest}"
if [ "$3" = -S ]; then number=$4; fi
echo "$speed:$speed:$direction time: 1700000000.0000000000 192.0.2.1 seq_no: $number"
"""


class Station:
    """Be a weather station with one record at a time."""

    def __init__(self, folder: Path) -> None:
        self._newest = folder / "newest"
        self.program = folder / "senspot-get"
        self.program.write_text(SENSOR.format(newest=self._newest))
        self.program.chmod(0o755)

    def measure(self, number: int, speed: float, direction: float) -> None:
        draft = self._newest.with_suffix(".new")
        draft.write_text(f"{number} {speed} {direction}\n")
        draft.replace(self._newest)

    def fail(self) -> None:
        self._newest.unlink()


@pytest.fixture
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Station:
    found = Station(tmp_path)
    found.measure(1, 10, 90)
    monkeypatch.setenv("SENSPOT_PATH", str(found.program))
    return found


def again(lab: Lab, trigger: str, **rules: Any) -> dict[str, Any]:
    """Return a workflow of one simulation that runs again."""
    source = {"url": "woof://192.0.2.1/cups", "limit": 1, "speed_unit": "m/s"}
    return dict(
        lab.workflow(
            num_simulations=1,
            train_models=[],
            evaluation_task=None,
            mock_sensor_data=trigger == "timer",
            sources=[source],
            continuous={"trigger": trigger, "interval": 0.2, **rules},
        )
    )


async def endings(user: XGFabricClient) -> list[tuple[str, str | None]]:
    return [(run["status"], run["error"]) for run in await user.list_runs()]


async def until_waiting(lab: Lab, user: XGFabricClient, runs: int) -> dict[str, Any]:
    """Wait until so many runs are over and the next one is waited for."""

    async def waits() -> bool:
        over = [run["end_time"] for run in await user.list_runs()].count(None) == 0
        are_all = over and len(await user.list_runs()) == runs
        return are_all and (await user.get_status())["phase"] == "waiting"

    await lab.until(waits)
    return await user.get_status()


async def test_a_workflow_runs_by_the_clock_as_often_as_said(
    lab: Lab, user: XGFabricClient
) -> None:
    await user.start_workflow(again(lab, "timer", max_runs=3))
    state = await lab.finish(user)
    assert state["status"] == "completed"
    assert await endings(user) == [COMPLETED] * 3
    assert lab.lines() == ["sim 0"] * 3
    assert len({run["run_id"] for run in await user.list_runs()}) == 3


async def test_a_workflow_runs_on_each_new_record_and_stops_when_told(
    lab: Lab, user: XGFabricClient, station: Station
) -> None:
    await user.start_workflow(again(lab, "new-data"))
    state = await until_waiting(lab, user, 1)
    assert (state["status"], state["message"]) == (
        "running",
        "run 1 completed; waiting for new-data",
    )
    with pytest.raises(WorkflowRunning):
        await user.start_workflow(lab.workflow())
    station.fail()
    station.measure(2, 10, 90)
    await until_waiting(lab, user, 2)
    await user.stop_workflow()
    assert (await user.get_status())["status"] == "completed"
    with pytest.raises(WorkflowIdle):
        await user.stop_workflow()


@pytest.mark.parametrize(("speed", "direction"), [(13, 90), (10, 130)], ids=["speed", "direction"])
async def test_a_workflow_runs_when_the_wind_has_changed_enough(
    lab: Lab, user: XGFabricClient, station: Station, speed: float, direction: float
) -> None:
    await user.start_workflow(again(lab, "change", speed_change=2.5, direction_change=30))
    await until_waiting(lab, user, 1)
    station.measure(2, 11, 100)
    station.measure(3, speed, direction)
    await until_waiting(lab, user, 2)
    await user.stop_workflow()
    assert await endings(user) == [COMPLETED] * 2


async def test_a_trigger_during_a_run_is_skipped(
    lab: Lab, user: XGFabricClient, station: Station
) -> None:
    lab.gate.touch()
    await user.start_workflow(again(lab, "new-data", overlap="skip"))
    await lab.until(lambda: lab.begun() == ["0"])
    session = session_of(lab)
    station.measure(2, 10, 90)
    await lab.until(lambda: newest_seen(session) == 2)
    lab.gate.unlink()
    await until_waiting(lab, user, 1)
    await user.stop_workflow()


async def test_triggers_during_a_run_wait_for_its_end_up_to_a_number(
    lab: Lab, user: XGFabricClient, station: Station
) -> None:
    lab.gate.touch()
    await user.start_workflow(again(lab, "new-data", overlap="queue", queue_limit=2))
    await lab.until(lambda: lab.begun() == ["0"])
    for number in (2, 3, 4):
        station.measure(number, 10, 90)
        await lab.until(lambda wanted=number: newest_seen(session_of(lab)) == wanted)
    await lab.until(lambda: session_of(lab)._series._record.waiting == 2)
    lab.gate.unlink()
    await until_waiting(lab, user, 3)
    await user.stop_workflow()


async def test_a_trigger_replaces_the_run_if_so_said(
    lab: Lab, user: XGFabricClient, station: Station
) -> None:
    lab.gate.touch()
    await user.start_workflow(again(lab, "new-data", overlap="replace", max_runs=2))
    await lab.until(lambda: lab.begun() == ["0"])
    station.measure(2, 10, 90)
    await lab.until(lambda: lab.begun() == ["0", "0"])
    lab.gate.unlink()
    await lab.finish(user)
    first, second = await user.list_runs()
    assert (first["status"], first["error"]) == ("failed", "stopped for a run on newer data")
    assert second["status"] == "completed"


async def test_a_series_goes_on_after_a_restart(
    lab: Lab, user: XGFabricClient, station: Station, targets: dict[str, str]
) -> None:
    lab.gate.touch()
    await user.start_workflow(again(lab, "new-data", max_runs=2))
    await lab.until(lambda: lab.begun() == ["0"])
    await lab.end("hub")
    lab.gate.unlink()
    await lab.start("hub", targets["xgfabric"])
    await until_waiting(lab, user, 1)
    assert lab.begun() == ["0"]
    station.measure(2, 10, 90)
    state = await lab.finish(user)
    assert state["status"] == "completed"
    assert await endings(user) == [COMPLETED] * 2
    await lab.end("hub")
    await lab.start("hub", targets["xgfabric"])
    assert (await user.get_status())["status"] == "completed"


async def test_a_series_that_cannot_be_read_keeps_its_session_from_nothing(
    lab: Lab, user: XGFabricClient, targets: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    await user.start_workflow(again(lab, "timer", interval=60))
    await until_waiting(lab, user, 1)
    await lab.end("hub")
    statement = "UPDATE documents SET value = ? WHERE space = ?"
    assert lab.change_state(statement, '{"plan": 3}', "plugin/xgfabric/series") == 1
    await lab.start("hub", targets["xgfabric"])
    assert "does not come back" in caplog.text
    assert (await user.get_status())["status"] == "completed"
    assert (await lab.run(user))["status"] == "completed"


async def test_a_session_that_ends_takes_its_series_with_it(lab: Lab, user: XGFabricClient) -> None:
    await user.start_workflow(again(lab, "timer"))
    await lab.until(lambda: lab.begun() != [])
    await user.unregister_session()
    begun = lab.begun()
    assert (await (await lab.user()).get_status())["status"] == "idle"
    assert lab.begun() == begun


def session_of(lab: Lab) -> Any:
    plugin = lab.deployment.endpoints["hub"].host.plugins.served["xgfabric"].plugin
    (session,) = plugin._live
    return session


def newest_seen(session: Any) -> int:
    return max((int(number) for number in session._series._record.seen.values()), default=0)
