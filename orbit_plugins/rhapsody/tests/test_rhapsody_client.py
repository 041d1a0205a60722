import pickle
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from orbit_rhapsody import (
    BackendFailed,
    NotPicklable,
    Pickled,
    PythonMismatch,
    RhapsodyClient,
    SessionInitializing,
    TaskGone,
    UnknownFunction,
    UnknownTask,
)

from orbit_core.config import BridgeConfig
from orbit_core.errors import Forbidden, InvalidBody
from orbit_core.testing import BOB, Deployment, open_deployment

pytestmark = pytest.mark.anyio

TARGETS = ["orbit_rhapsody.plugin:RhapsodyPlugin"]
SQRT = {"function": "math:sqrt", "args": [4.0]}
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


class Mark:
    """Leave a file behind where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (self.path, "w"))


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    config = BridgeConfig(port=0, plugins=[], grace=0.2)
    async with open_deployment(tmp_path, config=config) as found:
        yield found


@pytest.fixture
async def rhapsody(deployment: Deployment) -> AsyncIterator[RhapsodyClient]:
    node = deployment.endpoint("node7", TARGETS, shared=True)
    async with node, deployment.client() as client:
        found = await client.get_endpoint_client("node7").get_plugin(
            "rhapsody", backends=["concurrent"], sid="lab"
        )
        assert isinstance(found, RhapsodyClient)
        yield found


async def test_tasks_are_submitted_and_waited_for(rhapsody: RhapsodyClient) -> None:
    tasks = await rhapsody.submit_tasks([SQRT, {**SQRT, "uid": "mine"}, {"executable": "true"}])
    assert tasks[1] == {"uid": "mine", "state": "PENDING"}
    assert len({task["uid"] for task in tasks}) == 3
    found = await rhapsody.wait_tasks(tasks, timeout=20)
    assert [task["state"] for task in found] == ["DONE"] * 3
    assert found[1]["return_value"] == 2.0
    assert (await rhapsody.get_task("mine"))["return_value"] == 2.0
    assert [task["state"] for task in await rhapsody.list_tasks()] == ["DONE"] * 3
    assert (await rhapsody.statistics())["states"] == {"DONE": 3}


async def test_functions_travel_with_any_arguments(rhapsody: RhapsodyClient) -> None:
    tasks = await rhapsody.submit_tasks(
        [
            {"function": lambda *args, **more: (args, more), "args": [{1, 2}], "kwargs": {"a": 1j}},
            {"function": max, "args": [3, 5]},
            {"function": lambda: (1, "a", None)},
        ]
    )
    found = await rhapsody.wait_tasks([task["uid"] for task in tasks])
    closed = found[0]["return_value"]
    assert isinstance(closed, Pickled)
    assert closed.open() == (({1, 2},), {"a": 1j})
    assert repr(closed) == "<pickled (({1, 2},), {'a': 1j})>"
    assert [task["return_value"] for task in found[1:]] == [5, (1, "a", None)]


async def test_many_tasks_go_in_several_requests(
    rhapsody: RhapsodyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_rhapsody.client.BATCH_TASKS", 7)
    monkeypatch.setattr("orbit_rhapsody.client.BATCH_BYTES", 1000)
    tasks = [{"function": "builtins:len", "args": [b"x" * 100 * n]} for n in range(20)]
    found = await rhapsody.wait_tasks(await rhapsody.submit_tasks(tasks))
    assert [task["return_value"] for task in found] == [100 * n for n in range(20)]


async def test_a_malicious_result_does_nothing_to_who_did_not_ask_for_pickles(
    rhapsody: RhapsodyClient, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    tasks = await rhapsody.submit_tasks([{"function": Mark, "args": [str(mark)]}])
    (found,) = await rhapsody.wait_tasks(tasks)
    fetched = await rhapsody.get_task(tasks[0]["uid"])
    async for result in rhapsody.results():
        rhapsody.opened(result)
        break
    assert isinstance(found["return_value"], Pickled)
    assert isinstance(fetched["return_value"], Pickled)
    assert not mark.exists()
    found["return_value"].open().close()
    assert mark.exists()


async def test_who_asks_for_pickles_gets_them_opened(deployment: Deployment) -> None:
    async with deployment.endpoint("node7", TARGETS), deployment.client() as client:
        rhapsody: Any = await client.get_endpoint_client("node7").get_plugin(
            "rhapsody", open_pickles=True
        )
        tasks = await rhapsody.submit_tasks([{"function": lambda: {1, 2}}])
        assert (await rhapsody.wait_tasks(tasks))[0]["return_value"] == {1, 2}


async def test_two_clients_share_nothing(
    deployment: Deployment, rhapsody: RhapsodyClient, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    tasks = await rhapsody.submit_tasks([{"function": Mark, "args": [str(mark)]}])
    heard: list[Any] = []
    async with deployment.client(BOB) as client:
        node = client.get_endpoint_client("node7")
        bobs: Any = await node.get_plugin("rhapsody", open_pickles=True)
        bobs.register_notification_callback(lambda *told: heard.append(told))
        await client.wait_for_listener()
        with pytest.raises(Forbidden):
            await node.get_plugin("rhapsody", sid="lab")
        with pytest.raises(Forbidden):
            await bobs.sibling("lab")
        with pytest.raises(UnknownTask):
            await bobs.cancel_task(tasks[0]["uid"])
        assert await bobs.list_tasks() == []
        await rhapsody.wait_tasks(tasks)
        own = await bobs.submit_tasks([SQRT])
        await bobs.wait_tasks(own)
        with anyio.fail_after(20):
            while not any("uid" in told[3] and told[3]["state"] == "DONE" for told in heard):
                await anyio.sleep(0.01)
        mine = {told[3]["uid"] for told in heard if told[2] == "task_status"}
        assert mine == {own[0]["uid"]}
    assert not mark.exists()


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"function": max, "args": [1, threading.Lock()]}, r"argument 1 cannot be pickled"),
        ({"function": max, "kwargs": {"key": threading.Lock()}}, r"argument 'key' cannot be"),
        ({"function": threading.Lock().acquire}, r"the function .* cannot be pickled"),
    ],
)
async def test_what_does_not_pickle_is_named(
    rhapsody: RhapsodyClient, task: dict[str, Any], words: str
) -> None:
    with pytest.raises(NotPicklable, match=words):
        await rhapsody.submit_tasks([task])
    assert await rhapsody.list_tasks() == []


async def test_another_python_is_found_before_a_function_is_sent(
    rhapsody: RhapsodyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rhapsody, "_python", "3.4")
    with pytest.raises(PythonMismatch) as caught:
        await rhapsody.submit_tasks([{"function": lambda: 1}])
    assert str(caught.value) == (
        f"functions cannot be sent from Python {VERSION} to endpoint node7, which has Python 3.4: "
        "use the same minor version here, or name functions by their import path"
    )
    assert (await rhapsody.wait_tasks(await rhapsody.submit_tasks([SQRT])))[0]["return_value"] == 2


async def test_errors_keep_their_class(rhapsody: RhapsodyClient) -> None:
    with pytest.raises(UnknownTask):
        await rhapsody.get_task("nobody")
    with pytest.raises(UnknownTask):
        await rhapsody.wait_tasks(["nobody"])
    with pytest.raises(UnknownFunction):
        await rhapsody.submit_tasks([{"function": "nothing:there"}])
    with pytest.raises(InvalidBody):
        await rhapsody.submit_tasks([{}])
    with pytest.raises(TypeError, match="expected a uid, or a task with one, got a int"):
        await rhapsody.wait_tasks([7])


async def test_a_session_whose_backend_fails_says_why(rhapsody: RhapsodyClient) -> None:
    with pytest.raises(BackendFailed, match="backend dragon_v3 does not start"):
        await rhapsody.register_session(["dragon"])


async def test_a_session_that_is_not_ready_in_time_says_so(rhapsody: RhapsodyClient) -> None:
    with pytest.raises(SessionInitializing, match="not ready after 0 s"):
        await rhapsody.register_session(["dask"], init_timeout=0.0)


async def test_a_wait_that_times_out_returns_what_there_is(rhapsody: RhapsodyClient) -> None:
    tasks = await rhapsody.submit_tasks([{"executable": "sleep", "arguments": ["300"]}])
    (found,) = await rhapsody.wait_tasks(tasks, timeout=0.2)
    assert found["state"] == "RUNNING"
    assert await rhapsody.cancel_all_tasks() == 1
    (found,) = await rhapsody.wait_tasks(tasks)
    assert found["state"] == "CANCELED"
    uid = tasks[0]["uid"]
    assert await rhapsody.cancel_task(uid) == {"uid": uid, "status": "canceled"}


async def test_waiting_outlasts_a_restart_of_the_endpoint(deployment: Deployment) -> None:
    ends: list[dict[str, Any]] = []
    async with deployment.client() as client, anyio.create_task_group() as group:
        async with deployment.endpoint("node7", TARGETS):
            rhapsody: Any = await client.get_endpoint_client("node7").get_plugin(
                "rhapsody", lifetime="persistent", backends=["concurrent"]
            )
            tasks = await rhapsody.submit_tasks([{"executable": "sleep", "arguments": ["300"]}])

            async def wait() -> None:
                ends.extend(await rhapsody.wait_tasks(tasks))

            group.start_soon(wait)
            while (await rhapsody.get_task(tasks[0]["uid"]))["state"] != "RUNNING":
                await anyio.sleep(0.01)
        async with deployment.endpoint("node7", TARGETS):
            with anyio.fail_after(30):
                while not ends:
                    await anyio.sleep(0.01)
    assert ends[0]["error"] == "the endpoint ended before this task did, and the task with it"


async def test_a_client_without_a_session_says_so(rhapsody: RhapsodyClient) -> None:
    await rhapsody.unregister_session()
    with pytest.raises(RuntimeError, match="no active session"):
        await rhapsody.submit_tasks([SQRT])


@pytest.mark.parametrize(
    ("imported", "absent"),
    [("orbit_core.bridge", "cloudpickle"), ("orbit_rhapsody", "rhapsody")],
    ids=["a bridge opens no pickle", "a laptop needs no RHAPSODY"],
)
def test_what_is_not_needed_is_not_loaded(imported: str, absent: str) -> None:
    script = f"import sys, {imported}; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_errors_can_be_pickled() -> None:
    for kind in (TaskGone, NotPicklable, UnknownTask):
        assert str(pickle.loads(pickle.dumps(kind("words")))) == "words"
