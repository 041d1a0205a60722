import json
import os
import signal
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgpack
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

pytestmark = pytest.mark.anyio

Fault = Callable[[httpx.Response], tuple[int, str]]
Reader = Any
Lines = Callable[[Path], Awaitable[str]]
SQRT = {"function": "math:sqrt", "args": [4.0]}

ENDPOINT = """
import json, pathlib, sys, anyio
from orbit_core.testing import open_plugin

async def main():
    directory, tasks = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
    target = "orbit_rhapsody.plugin:RhapsodyPlugin"
    async with open_plugin(target, directory, instance="rhapsody") as served:
        async with served.http() as http:
            body = {"sid": "lab", "lifetime": "persistent"}
            await http.post("/rhapsody/register_session", json=body)
            await http.get("/rhapsody/session_status/lab?wait=30")
            reply = await http.post("/rhapsody/submit/lab", json={"tasks": tasks})
            uids = [task["uid"] for task in tasks if task["uid"].startswith("short")]
            await http.post("/rhapsody/wait/lab", json={"uids": uids, "timeout": 30})
            while served.plugin.sessions._entries["lab"].session._unwritten:
                await anyio.sleep(0.01)
            print(reply.status_code, flush=True)
            await anyio.sleep_forever()

anyio.run(main)
"""


def shell(script: str) -> dict[str, Any]:
    return {"executable": "/bin/sh", "arguments": ["-c", script]}


async def run_and_kill(directory: Path, tasks: list[dict[str, Any]], number: int) -> None:
    """Run tasks in an endpoint of its own until the short ones are over, and end it."""
    command = [sys.executable, "-c", ENDPOINT, str(directory), json.dumps(tasks)]
    async with await anyio.open_process(command, stderr=None, start_new_session=True) as process:
        assert process.stdout is not None
        with anyio.fail_after(60):
            said = BufferedByteReceiveStream(process.stdout)
            assert await said.receive_until(b"\n", 100) == b"200"
            os.kill(process.pid, number)
            await process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "terminate"])
async def test_results_outlive_their_endpoint_and_the_rest_is_failed(
    open_user: Reader,
    tmp_path: Path,
    fault: Fault,
    number: int,
    is_alive: Callable[[int], bool],
    read_line: Lines,
) -> None:
    tasks = [
        {"uid": "short", **SQRT},
        {"uid": "short.large", "function": "os:urandom", "args": [1_000_000]},
        {"uid": "long", **shell(f"echo $$ > {tmp_path}/pid; exec sleep 300")},
        {"uid": "endless", "function": "time:sleep", "args": [300]},
    ]
    await run_and_kill(tmp_path / "state", tasks, number)
    pid = int(await read_line(tmp_path / "pid"))
    async with open_user(tmp_path / "state") as user:
        assert not is_alive(pid)
        found = await user.wait("short", "short.large", "long", "endless")
        assert [task["state"] for task in found] == ["DONE", "DONE", "FAILED", "FAILED"]
        assert found[0]["return_value"] == 2.0
        assert len(found[1]["return_value"]) > 1_000_000
        for task in found[2:]:
            assert task["error"] == "the endpoint ended before this task did, and the task with it"
        assert (await user.run(**SQRT))["return_value"] == 2.0
        assert fault(await user.try_submit({"uid": "long", **SQRT})) == (409, "duplicate_task")


async def test_an_endpoint_that_stops_in_order_ends_what_runs_and_says_so(
    open_user: Reader, tmp_path: Path, is_alive: Callable[[int], bool], read_line: Lines
) -> None:
    script = f"echo begun; echo $$ >> {tmp_path}/pids; exec sleep 300"
    async with open_user(tmp_path / "state", settings={"executables": 1}) as user:
        await user.submit({"uid": "runs", **shell(script)}, {"uid": "waits", **shell(script)})
        pid = int(await read_line(tmp_path / "pids"))
    assert not is_alive(pid)
    async with open_user(tmp_path / "state") as user:
        runs, waits = await user.wait("runs", "waits")
        for found in (runs, waits):
            assert found["state"] == "FAILED"
            assert found["error"] == "the endpoint ended before this task did, and the task with it"
        assert runs["stdout"] == "begun\n"
    assert (tmp_path / "pids").read_text() == f"{pid}\n"


async def results(user: Reader, after: int, count: int) -> list[dict[str, Any]]:
    unpacker = msgpack.Unpacker()
    found: list[dict[str, Any]] = []
    feed = user.served.plugin.sessions._entries[user.sid].session.results(after)
    with anyio.fail_after(30):
        while len(found) < count:
            unpacker.feed(await anext(feed))
            found += [result for result in unpacker if result and "seq" in result]
    await feed.aclose()
    return found


async def test_who_follows_across_a_restart_misses_nothing(
    open_user: Reader, tmp_path: Path
) -> None:
    async with open_user(tmp_path) as user:
        await user.submit(*({"uid": f"a{n}", **SQRT} for n in range(10)))
        first = await results(user, 0, 10)
        await user.submit({"uid": "lost", "function": "time:sleep", "args": [2]})
    async with open_user(tmp_path) as user:
        (lost,) = await results(user, first[-1]["seq"], 1)
        assert (lost["uid"], lost["state"]) == ("lost", "FAILED")
        again = await results(user, 0, 11)
        assert [result["uid"] for result in again] == [result["uid"] for result in first] + ["lost"]


async def test_results_that_memory_does_not_hold_come_from_disk(
    open_user: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_rhapsody.feed.MEMORY", 2000)
    monkeypatch.setattr("orbit_rhapsody.feed.CHUNK", 500)
    monkeypatch.setattr("orbit_rhapsody.archive.PAGE", 1000)
    monkeypatch.setattr("orbit_rhapsody.archive.INLINE", 200)
    async with open_user(tmp_path) as user:
        uids = [f"n{n}" for n in range(100)]
        for uid in uids:
            await user.submit({"uid": uid, "function": "os:urandom", "args": [300]})
        await user.wait(*uids)
        session = user.served.plugin.sessions._entries[user.sid].session
        await user.until(lambda: session.feed._bytes <= 2000)
        found = await results(user, 0, 100)
    assert sorted(result["uid"] for result in found) == sorted(uids)
    assert [result["seq"] for result in found] == list(range(1, 101))
    assert all(len(result["return_value"]) == 300 for result in found)


async def test_a_silent_stream_shows_that_it_lives(
    open_user: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_rhapsody.feed.KEEP_ALIVE", 0.01)
    async with open_user(tmp_path) as user:
        feed = user.served.plugin.sessions._entries[user.sid].session.results(0)
        parts = [await anext(feed) for _ in range(3)]
        await feed.aclose()
    assert b"\xc0" in parts


@pytest.mark.parametrize(
    ("settings", "gone"),
    [({"keep_count": 2}, 3), ({"keep_bytes": 600}, 3), ({"keep_days": 0.0}, 5)],
    ids=["count", "size", "age"],
)
async def test_old_results_go_and_say_so(
    open_user: Reader, tmp_path: Path, fault: Fault, settings: dict[str, Any], gone: int
) -> None:
    uids = [f"n{n}" for n in range(5)]
    async with open_user(tmp_path, settings={"keep_bytes": 10**9, **settings}) as user:
        for uid in uids:
            await user.submit({"uid": uid, "function": "os:urandom", "args": [100]})
            await user.wait(uid)
    async with open_user(tmp_path, settings={"keep_bytes": 10**9, **settings}) as user:
        states = [task["state"] for task in await user.wait(*uids)]
        with anyio.fail_after(30):
            while states.count("GONE") < gone:
                await anyio.sleep(0.02)
                states = [task["state"] for task in await user.wait(*uids)]
        assert states == ["GONE"] * gone + ["DONE"] * (5 - gone)
        for reply in (
            await user.get(f"task/{user.sid}/n0"),
            await user.post(f"cancel/{user.sid}/n0"),
        ):
            assert fault(reply) == (410, "task_gone")


async def test_results_of_large_size_are_files_that_go_with_their_session(
    open_user: Reader, tmp_path: Path
) -> None:
    async with open_user(tmp_path) as user:
        await user.run(function="os:urandom", args=[200_000])
        folder = Path(f"{tmp_path}/plugins/rhapsody/results")
        await user.until(lambda: len(os.listdir(folder)) == 1)
        (folder / "left-by-a-crash").write_bytes(b"x")
    async with open_user(tmp_path) as user:
        assert len(os.listdir(folder)) == 1
        await user.post(f"unregister_session/{user.sid}")
        assert os.listdir(folder) == []
    with sqlite3.connect(folder.parent / "tasks.sqlite3") as connection:
        assert connection.execute("SELECT COUNT(*) FROM tasks").fetchone() == (0,)
    connection.close()


async def test_closing_a_session_cancels_what_runs(
    open_user: Reader,
    tmp_path: Path,
    fault: Fault,
    is_alive: Callable[[int], bool],
    read_line: Lines,
) -> None:
    async with open_user(tmp_path / "state") as user:
        await user.submit({"uid": "long", **shell(f"echo $$ > {tmp_path}/pid; exec sleep 300")})
        pid = int(await read_line(tmp_path / "pid"))
        await user.post(f"unregister_session/{user.sid}")
        assert not is_alive(pid)
        ends = [note for note in user.heard("task_status") if note["state"] == "CANCELED"]
        assert ends[0]["error"] == "its session was closed"
        assert fault(await user.get(f"task/{user.sid}/long")) == (404, "unknown_session")


async def test_a_full_disk_is_told_and_results_are_written_later(
    open_user: Reader, tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_rhapsody.engine.RETRY_DELAY", 0.05)
    async with open_user(tmp_path) as user:
        await user.submit({"uid": "a", "function": "time:sleep", "args": [0.3]})
        ledger = user.served.plugin.engine.archive.ledger
        await ledger.execute(lambda connection: connection.execute("PRAGMA query_only=1").rowcount)
        assert fault(await user.try_submit({"uid": "b", **SQRT})) == (507, "state_unavailable")
        (found,) = await user.wait("a")
        assert found["state"] == "DONE"
        await ledger.execute(lambda connection: connection.execute("PRAGMA query_only=0").rowcount)
        await user.until(lambda: not user.served.plugin.sessions._entries["lab"].session._unwritten)
        assert (await user.task("a"))["state"] == "DONE"
