from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from orbit_xgfabric import InvalidWorkdir
from orbit_xgfabric.client import XGFabricClient
from orbit_xgfabric.failures import UnknownRun

from orbit_core.errors import BadRequest, Forbidden, InvalidBody, InvalidName, UnknownRoute
from orbit_core.models import EndpointInfo, PluginInfo
from orbit_core.testing import BOB

pytestmark = pytest.mark.anyio

Lab = Any
Opener = Callable[..., AbstractAsyncContextManager[Lab]]


def plugin_of(lab: Lab) -> Any:
    return lab.deployment.endpoints["hub"].host.plugins.served["xgfabric"].plugin


async def test_configurations_are_kept_in_the_work_directory(
    lab: Lab, user: XGFabricClient, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert await user.get_workdir() == str(tmp_path)
    assert await user.set_workdir(str(other)) == str(other)
    config = {**await user.get_test_config(), "name": "mine"}
    assert await user.save_config(config) == {"status": "saved", "name": "mine"}
    assert (other / "configs" / "mine.json").exists()
    assert [one["name"] for one in await user.list_configs()] == ["mine"]
    assert await user.load_config("mine") == config
    assert (await user.get_default_config())["num_simulations"] == 16
    assert await user.delete_config("mine") == {"status": "deleted", "name": "mine"}
    assert await user.list_configs() == []


@pytest.mark.parametrize("path", ["/nowhere", "file", "~nobody-at-all/x", "\0"])
async def test_a_work_directory_that_is_none_is_refused(
    lab: Lab, user: XGFabricClient, tmp_path: Path, path: str
) -> None:
    (tmp_path / "file").touch()
    wanted = str(tmp_path / path) if path == "file" else path
    with pytest.raises(InvalidWorkdir) as refused:
        await user.set_workdir(wanted)
    assert refused.value.status_code == 400
    assert await user.get_workdir() == str(tmp_path)


async def test_no_name_leads_out_of_the_work_directory(lab: Lab, user: XGFabricClient) -> None:
    with pytest.raises(UnknownRoute):
        await user.load_config("..%2F..%2Fetc%2Fx")
    with pytest.raises(InvalidName):
        await user.load_config("%2E%2E")
    with pytest.raises(InvalidName):
        await user.start_workflow("../../etc/x")


async def test_a_session_takes_a_work_directory_and_nothing_it_does_not_know(
    lab: Lab, user: XGFabricClient
) -> None:
    for wrong in ({"color": "red"}, {"workdir": 3}):
        with pytest.raises(InvalidBody):
            await lab.user("other", **wrong)
    with pytest.raises(InvalidWorkdir):
        await lab.user("other", workdir="/nowhere")


async def test_a_work_directory_outlives_a_restart(
    lab: Lab, user: XGFabricClient, tmp_path: Path, targets: dict[str, str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    await user.set_workdir(str(other))
    await lab.end("hub")
    await lab.start("hub", targets["xgfabric"])
    assert await user.get_workdir() == str(other)


async def test_the_environment_names_the_work_directory_of_who_names_none(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XGFABRIC_WORKDIR", str(tmp_path / "state"))
    user = await lab.user("other", workdir=None)
    assert await user.get_workdir() == str(tmp_path / "state")


async def test_an_idle_session_shows_the_clusters_that_there_are(
    open_lab: Opener, targets: dict[str, str]
) -> None:
    small = [targets["rhapsody"], targets["staging"]]
    big = [targets["psij"], targets["staging"], f"queue_info={targets['staging']}"]
    async with open_lab(small=small, big=big, hub=[targets["xgfabric"]]) as lab:
        user = await lab.user()
        state = await user.get_status()
        assert (state["status"], state["phase"]) == ("idle", "idle")
        assert [one["name"] for one in state["immediate_clusters"]] == ["big", "small"][1:]
        plugins = {
            name: PluginInfo(name, f"/cluster/{name}") for name in ("psij", "staging", "queue_info")
        }
        (session,) = plugin_of(lab)._live
        session.update_connected_endpoints(
            {"cluster": EndpointInfo("login", plugins=plugins), "cluster.pilot": EndpointInfo("x")}
        )
        state = session.status()
        assert [one.name for one in state.allocate_clusters] == ["cluster"]
        assert state.immediate_clusters == []


async def test_each_owner_sees_his_own_runs(open_lab: Opener, targets: dict[str, str]) -> None:
    endpoints = {"small": [targets["rhapsody"], targets["staging"]], "hub": [targets["xgfabric"]]}
    async with open_lab(shared=True, **endpoints) as lab:
        alice, bob = await lab.user("hers"), await lab.user("his", BOB)
        state = await lab.run(alice)
        assert state["status"] == "completed"
        with pytest.raises(Forbidden):
            await lab.user("hers", BOB)
        assert await bob.list_runs() == []
        with pytest.raises(UnknownRun):
            await bob.get_report(state["run_id"])
        with pytest.raises(UnknownRun, match="has no run yet"):
            await bob.get_report()
        heard: list[Any] = []
        bob.register_notification_callback(lambda *news: heard.append(news))
        await (await lab.bridge(BOB)).wait_for_listener()
        await lab.run(alice)
        assert [run["status"] for run in await alice.list_runs()] == ["completed"] * 2
        assert (await lab.run(bob))["status"] == "completed"
        assert {news[3]["run_id"] for news in heard} == {
            run["run_id"] for run in await bob.list_runs()
        }


async def test_a_report_comes_in_three_forms_only(lab: Lab, user: XGFabricClient) -> None:
    await lab.run(user)
    with pytest.raises(BadRequest, match="must be json, csv or svg"):
        await user.get_report_text("pdf")


async def test_a_run_that_goes_on_is_reported_on_until_now(lab: Lab, user: XGFabricClient) -> None:
    lab.gate.touch()
    await user.start_workflow(lab.workflow())
    await lab.until(lambda: lab.begun() == ["0", "1"])
    report = await user.get_report()
    assert (report["status"], report["phases"][-1]["phase"]) == ("running", "simulations")
    assert report["unaccounted_seconds"] < 0.05 * report["end_to_end_seconds"]
    await user.stop_workflow()


async def test_the_oldest_runs_are_forgotten(
    lab: Lab, user: XGFabricClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_xgfabric.journal.RUNS_KEPT", 1)
    failing = {"simulation_task": lab.shell("exit 1"), "num_simulations": 1}
    await lab.run(user, **failing)
    last = await lab.run(user, **failing)

    async def is_alone() -> bool:
        return [run["run_id"] for run in await user.list_runs()] == [last["run_id"]]

    await lab.until(is_alone)
    assert [path.name for path in (lab.directory / "local").iterdir()] == [last["run_id"]]


async def test_a_working_session_does_not_run_out(lab: Lab, user: XGFabricClient) -> None:
    plugin = plugin_of(lab)
    assert plugin.busy_sessions() == []
    lab.gate.touch()
    await user.start_workflow(lab.workflow())
    assert plugin.busy_sessions() == ["lab"]
    await user.stop_workflow()
    assert plugin.busy_sessions() == []


async def test_an_old_program_names_its_workflow_as_it_did(lab: Lab, user: XGFabricClient) -> None:
    reply = await _post(user, "start/lab", {"config_name": "nothing"})
    assert (reply["status_code"], reply["code"]) == (404, "unknown_config")


async def _post(user: XGFabricClient, route: str, body: Any) -> Any:
    found: httpx.Response = await user._http.post(user._url(route), json=body)
    return found.json()
