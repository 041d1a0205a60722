import base64
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import cloudpickle
import httpx
import msgpack
import pytest

pytestmark = pytest.mark.anyio

Fault = Callable[[httpx.Response], tuple[int, str]]
Reader = Any
Lines = Callable[[Path], Awaitable[str]]


def shell(script: str, **options: Any) -> dict[str, Any]:
    task: dict[str, Any] = {"executable": "/bin/sh", "arguments": ["-c", script]}
    return {**task, "task_backend_specific_kwargs": options} if options else task


def pickled(function: Any, *args: Any) -> dict[str, Any]:
    return {
        "function": "cloudpickle::" + base64.b64encode(cloudpickle.dumps(function)).decode(),
        "args": "cloudpickle::" + base64.b64encode(cloudpickle.dumps(args)).decode(),
        "_pickled_fields": ["function", "args"],
    }


async def test_an_executable_brings_output_and_exit_code(user: Reader) -> None:
    found = await user.run(**shell("echo out; echo err >&2; exit 3"))
    assert (found["state"], found["exit_code"]) == ("FAILED", 3)
    assert (found["stdout"], found["stderr"]) == ("out\n", "err\n")
    assert found["error"] == "it ended with exit code 3"
    assert found["submitted"] <= found["started"] <= found["finished"]


async def test_output_comes_where_the_state_is_in_a_relative_directory(
    open_user: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_user(Path("state")) as user:
        found = await user.run(**shell("echo out"))
    assert found["stdout"] == "out\n"


async def test_output_that_is_no_text_is_shown_all_the_same(user: Reader) -> None:
    found = await user.run(**shell(r"printf '\377a'"))
    assert (found["state"], found["stdout"]) == ("DONE", "\ufffda")


async def test_an_executable_gets_its_directory_and_variables(user: Reader, tmp_path: Path) -> None:
    found = await user.run(**shell("pwd; echo $COLOUR", cwd=str(tmp_path), env={"COLOUR": "red"}))
    assert found["stdout"] == f"{tmp_path}\nred\n"


async def test_an_executable_that_does_not_exist_says_so(user: Reader) -> None:
    found = await user.run(executable="/nowhere/program")
    assert found["state"] == "FAILED"
    assert found["error"].startswith("/nowhere/program could not be started: ")


async def test_an_executable_that_is_killed_names_the_signal(user: Reader) -> None:
    found = await user.run(**shell("kill -9 $$"))
    assert (found["state"], found["error"]) == ("FAILED", "it was ended by signal 9")


async def test_much_output_arrives_whole(user: Reader) -> None:
    found = await user.run(**shell("head -c 100000000 /dev/zero | tr '\\0' x"))
    assert (found["state"], len(found["stdout"])) == ("DONE", 100_000_000)


async def test_a_function_is_called_by_its_import_path(user: Reader) -> None:
    found = await user.run(function="math:sqrt", args=[9.0])
    assert (found["state"], found["return_value"], found["exit_code"]) == ("DONE", 3.0, 0)


async def test_a_function_takes_keywords(user: Reader) -> None:
    found = await user.run(function="builtins:int", args=["ff"], kwargs={"base": 16})
    assert found["return_value"] == 255


async def test_a_coroutine_function_is_awaited(user: Reader) -> None:
    async def double(value: int) -> int:
        await anyio.lowlevel.checkpoint()
        return 2 * value

    found = await user.run(**pickled(double, 4))
    assert found["return_value"] == 8


async def test_a_tuple_and_bytes_are_marked_in_json(user: Reader) -> None:
    found = await user.run(function="math:frexp", args=[3.0])
    assert (found["return_value"], found["_return_value_encoding"]) == ([0.75, 2], "tuple")
    found = await user.run(function="os:urandom", args=[0])
    assert (found["return_value"], found["_return_value_encoding"]) == ("", "base64")


async def test_what_json_lacks_comes_as_a_pickle(user: Reader) -> None:
    for function, args in (("builtins:complex", [1, 2]), ("builtins:float", ["nan"])):
        found = await user.run(function=function, args=args)
        assert found["_return_value_encoding"] == "cloudpickle"
        value = cloudpickle.loads(base64.b64decode(found["return_value"][len("cloudpickle::") :]))
        assert repr(value) == found["return_preview"]


async def test_a_value_that_cannot_be_pickled_is_shown(user: Reader) -> None:
    found = await user.run(function="threading:Lock")
    assert (found["state"], found["_return_value_encoding"]) == ("DONE", "repr")
    assert "lock object" in found["return_value"]


async def test_an_exception_comes_with_its_traceback(user: Reader) -> None:
    def fail(text: str) -> None:
        raise LookupError(text)

    found = await user.run(**pickled(fail, "gone é"))
    assert (found["state"], found["exit_code"]) == ("FAILED", 1)
    assert found["exception"] == "LookupError: gone é"
    assert "in fail" in found["traceback"]
    assert "calls.py" not in found["traceback"]


async def test_a_function_cannot_end_its_worker(user: Reader) -> None:
    found = await user.run(function="sys:exit", args=[7])
    assert (found["state"], found["exception"]) == ("FAILED", "SystemExit: 7")


async def test_a_large_value_arrives_whole(user: Reader, tmp_path: Path) -> None:
    (uid,) = await user.submit({"uid": "big", "function": "os:urandom", "args": [100_000_000]})
    reply = await user.post(
        f"wait/{user.sid}", {"uids": [uid], "timeout": 30}, accept="application/msgpack"
    )
    (found,) = msgpack.unpackb(reply.content)
    assert (found["state"], len(found["return_value"])) == ("DONE", 100_000_000)


async def test_a_result_over_the_limit_is_a_failure_that_says_so(
    open_user: Reader, tmp_path: Path
) -> None:
    async with open_user(tmp_path, settings={"result_limit": 1000}) as user:
        found = await user.run(function="os:urandom", args=[2000])
    assert found["state"] == "FAILED"
    assert "result_limit is 1000" in found["error"]


async def test_a_task_that_never_ends_is_stopped_by_its_timeout(user: Reader) -> None:
    for task in (
        shell("exec sleep 300", timeout=0.2),
        {"function": "time:sleep", "args": [3], "task_backend_specific_kwargs": {"timeout": 0.2}},
    ):
        found = await user.run(**task)
        assert (found["state"], found["error"]) == ("FAILED", "its time of 0.2 s was up")


async def test_cancelling_ends_every_process_of_an_executable(
    user: Reader, tmp_path: Path, is_alive: Callable[[int], bool], read_line: Lines
) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 300 & a=$!; setsid sleep 300 & echo $$ $a $! > {pids}; wait"
    (uid,) = await user.submit({"uid": "long", **shell(script)})
    found = [int(pid) for pid in (await read_line(pids)).split()]
    reply = await user.post(f"cancel/{user.sid}/{uid}")
    assert reply.json() == {"uid": uid, "status": "canceled"}
    assert [pid for pid in found if is_alive(pid)] == []
    ended = await user.task(uid)
    assert (ended["state"], ended["error"]) == ("CANCELED", "it was cancelled")


async def test_an_executable_that_resists_is_killed(
    user: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_alive: Callable[[int], bool],
    read_line: Lines,
) -> None:
    monkeypatch.setattr("orbit_rhapsody.engine.CANCEL_GRACE", 0.3)
    pid = tmp_path / "pid"
    script = f"trap '' TERM; echo $$ > {pid}; while :; do sleep 0.05; done"
    (uid,) = await user.submit({"uid": "stubborn", **shell(script)})
    found = int(await read_line(pid))
    reply = await user.post(f"cancel/{user.sid}/{uid}")
    assert reply.json()["status"] == "canceled"
    assert not is_alive(found)
    assert (await user.task(uid))["exit_code"] == -signal.SIGKILL


async def test_cancelling_running_functions_drops_their_results_and_frees_their_places(
    open_user: Reader, tmp_path: Path
) -> None:
    async with open_user(tmp_path, settings={"function_workers": 1}) as user:
        for number in range(3):  # what runs meanwhile must not end the thread that took over
            task = {"uid": f"endless{number}", "function": "time:sleep", "args": [3]}
            (uid,) = await user.submit(task)
            await user.until(
                lambda uid=uid: any(
                    (note["uid"], note["state"]) == (uid, "RUNNING")
                    for note in user.heard("task_status")
                )
            )
            assert (await user.post(f"cancel/{user.sid}/{uid}")).json()["status"] == "canceled"
            for root in (2.0, 3.0):
                found = await user.run(function="math:sqrt", args=[root * root])
                assert found["return_value"] == root
            assert (await user.post(f"cancel/{user.sid}/{uid}")).json()["status"] == "canceled"


async def test_cancelling_all_counts_those_that_were_not_over(user: Reader) -> None:
    await user.run(function="math:sqrt", args=[4.0])
    await user.submit(*({"uid": f"s{n}", **shell("exec sleep 300")} for n in range(6)))
    reply = await user.post(f"cancel_all/{user.sid}", {"uids": ["s0", "nobody"]})
    assert reply.json() == {"canceled": 1}
    assert (await user.post(f"cancel_all/{user.sid}")).json() == {"canceled": 5}
    states = {task["state"] for task in await user.wait(*(f"s{n}" for n in range(6)))}
    assert states == {"CANCELED"}


async def test_executables_have_a_concurrency_limit(open_user: Reader, tmp_path: Path) -> None:
    script = f"mkdir {tmp_path}/only || exit 9; sleep 0.05; rmdir {tmp_path}/only"
    async with open_user(tmp_path / "state", settings={"executables": 1}) as user:
        uids = await user.submit(*({"uid": f"e{n}", **shell(script)} for n in range(8)))
        assert {task["state"] for task in await user.wait(*uids)} == {"DONE"}


async def test_a_wait_that_times_out_cancels_nothing(user: Reader, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    (uid,) = await user.submit(
        {"uid": "w", **shell(f"until [ -e {gate} ]; do sleep 0.02; done; echo end")}
    )
    (found,) = await user.wait(uid, timeout=0.2)
    assert found["state"] == "RUNNING"
    await anyio.Path(gate).touch()
    (found,) = await user.wait(uid)
    assert (found["state"], found["stdout"]) == ("DONE", "end\n")


async def test_one_failing_task_leaves_the_others_alone(user: Reader) -> None:
    uids = await user.submit(
        {"uid": "bad", "function": "math:sqrt", "args": [-1.0]},
        {"uid": "good", "function": "math:sqrt", "args": [1.0]},
    )
    assert [task["state"] for task in await user.wait(*uids)] == ["FAILED", "DONE"]


async def test_a_backend_that_takes_no_tasks_fails_them_with_its_reason(
    user: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(tasks: list[Any]) -> None:
        raise RuntimeError("its workers are gone")

    with monkeypatch.context() as patched:
        patched.setattr(user.served.plugin.engine._backends[0]._session, "submit_tasks", refuse)
        found = await user.run(function="math:sqrt", args=[4.0])
    assert found["state"] == "FAILED"
    assert found["error"] == "backend concurrent does not take it: its workers are gone"
    assert (await user.run(function="math:sqrt", args=[4.0]))["return_value"] == 2.0


async def test_nothing_is_measured_unless_that_was_asked_for(user: Reader) -> None:
    with pytest.raises(RuntimeError, match="Telemetry not started"):
        user.served.plugin.engine._backends[0]._session.get_telemetry()


async def test_an_executable_has_the_environment_of_its_endpoint(user: Reader) -> None:
    found = await user.run(**shell("echo $HOME"))
    assert found["stdout"] == os.environ["HOME"] + "\n"
