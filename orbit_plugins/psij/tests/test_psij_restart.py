import json
import os
import signal
import socket
import sqlite3
import sys
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from orbit_core.testing import BOB

pytestmark = pytest.mark.anyio

ENDPOINT = """
import json, pathlib, signal, sys, anyio
from orbit_core.testing import open_plugin

async def main():
    directory, specs = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
    async with open_plugin("orbit_psij.plugin:PSIJPlugin", directory, instance="psij") as served:
        async with served.http() as http:
            body = {"sid": "lab", "lifetime": "persistent"}
            await http.post("/psij/register_session", json=body)
            for index, spec in enumerate(specs):
                headers = {"Idempotency-Key": f"key{index}"}
                job = {"job_spec": spec}
                reply = await http.post("/psij/submit/lab", json=job, headers=headers)
                print(json.dumps(reply.json()), flush=True)
            await anyio.sleep_forever()

# Whoever runs the tests in the background may have had both ignored.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
anyio.run(main)
"""


def shell(script: str) -> dict[str, Any]:
    return {"executable": "/bin/sh", "arguments": ["-c", script]}


async def run_and_kill(
    directory: Path, specs: list[dict[str, Any]], number: int = signal.SIGKILL
) -> list[dict[str, Any]]:
    """Submit jobs from a process of its own, and end that process group as abruptly as asked.

    Each job has begun by then: before that it is not in a session of its own yet, but in the group.
    """
    command = [sys.executable, "-c", ENDPOINT, str(directory), json.dumps(specs)]
    found: list[dict[str, Any]] = []
    async with await anyio.open_process(command, stderr=None, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            text = b""
            with anyio.fail_after(30):
                while text.count(b"\n") < len(specs):
                    text += await process.stdout.receive()
                found = [json.loads(line) for line in text.splitlines()]
                while not all(has_begun(directory, job) for job in found):
                    await anyio.sleep(0.01)
                os.killpg(process.pid, number)
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
    return found


RECORD = "space = ? AND key = ?"


def change_record(directory: Path, key: str, space: str = "jobs", **changes: Any) -> None:
    """Change what the endpoint wrote of a job, as an earlier moment's or a later version's."""
    place = (f"plugin/psij/{space}", key)
    with sqlite3.connect(directory / "state.sqlite3") as connection:
        (text,) = connection.execute(
            f"SELECT value FROM documents WHERE {RECORD}", place
        ).fetchone()
        data = json.dumps({**json.loads(text), **changes})
        connection.execute(f"UPDATE documents SET value = ? WHERE {RECORD}", (data, *place))
    connection.close()


def forget(directory: Path, space: str) -> None:
    with sqlite3.connect(directory / "state.sqlite3") as connection:
        connection.execute("DELETE FROM documents WHERE space = ?", (f"plugin/psij/{space}",))
    connection.close()


def mark_of(directory: Path, job_id: str, kind: str) -> Path:
    return Path(f"{directory}/plugins/psij/output/lab/{job_id}.{kind}")


def exists(directory: Path, job: dict[str, Any], kind: str) -> bool:
    return mark_of(directory, job["job_id"], kind).exists()


def has_begun(directory: Path, job: dict[str, Any]) -> bool:
    mark = mark_of(directory, job["job_id"], "start")
    return mark.exists() and mark.read_text().endswith("\n")


def rewrite_start(directory: Path, job: dict[str, Any], pid: str, host: str) -> None:
    mark_of(directory, job["job_id"], "start").write_text(f"{pid} {host}\n")


def undo_start(directory: Path, job_id: str, **changes: Any) -> None:
    """Make a job look as it did when it had been accepted but not started."""
    for kind in ("start", "exit"):
        mark_of(directory, job_id, kind).unlink()
    change_record(directory, job_id, state="NEW", native_id=None, exit_code=None, **changes)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_job_outlives_its_endpoint_and_is_found_again(
    tmp_path: Path, open_user: Any, until: Any, number: signal.Signals
) -> None:
    gate = tmp_path / "gate"
    script = f"echo one; until [ -e {gate} ]; do sleep 0.02; done; echo two; exit 5"
    [job] = await run_and_kill(tmp_path / "s", [shell(script)], number)
    async with open_user(tmp_path / "s") as user:
        found = await user.until_prints(job["job_id"], "one")
        assert (found["state"], found["native_id"]) == ("ACTIVE", job["native_id"])
        gate.touch()
        found = await user.until_over(job["job_id"])
        assert (found["state"], found["exit_code"], found["stdout"]) == ("FAILED", 5, "one\ntwo\n")
        assert user.heard(job["job_id"])[-1]["stdout"] == "one\ntwo\n"


async def test_a_job_that_ended_meanwhile_has_its_true_exit_code(
    tmp_path: Path, open_user: Any, until: Any
) -> None:
    gate = tmp_path / "gate"
    script = f"until [ -e {gate} ]; do sleep 0.02; done; echo late; exit"
    jobs = await run_and_kill(tmp_path / "s", [shell(f"{script} {code}") for code in (0, 3)])
    gate.touch()
    await until(lambda: all(exists(tmp_path / "s", job, "exit") for job in jobs))
    async with open_user(tmp_path / "s") as user:
        ends = [await user.until_over(job["job_id"]) for job in jobs]
    assert [(end["state"], end["exit_code"]) for end in ends] == [("COMPLETED", 0), ("FAILED", 3)]
    assert ends[0]["stdout"] == "late\n"


async def test_a_finished_job_is_not_announced_again(tmp_path: Path, open_user: Any) -> None:
    async with open_user(tmp_path) as user:
        job_id = await user.submit("echo kept")
        await user.until_over(job_id)
    async with open_user(tmp_path) as user:
        assert (await user.status(job_id))["stdout"] == "kept\n"
        assert user.heard(job_id) == []


async def test_a_job_that_vanished_is_failed_and_says_so(
    tmp_path: Path, open_user: Any, until: Any, has_ended: Any
) -> None:
    [job] = await run_and_kill(tmp_path, [shell("echo up; sleep 300")])
    os.killpg(int(job["native_id"]), signal.SIGKILL)
    await until(lambda: has_ended(job["native_id"]))
    async with open_user(tmp_path) as user:
        found = await user.until_over(job["job_id"])
    assert (found["state"], found["exit_code"]) == ("FAILED", None)
    assert "without an exit code" in found["message"]


async def test_a_job_found_again_can_vanish_later(tmp_path: Path, open_user: Any) -> None:
    [job] = await run_and_kill(tmp_path, [shell("echo up; sleep 300")])
    async with open_user(tmp_path) as user:
        await user.until_prints(job["job_id"], "up")
        os.killpg(int(job["native_id"]), signal.SIGKILL)
        assert "without an exit code" in (await user.until_over(job["job_id"]))["message"]


async def test_a_process_that_got_a_jobs_number_is_not_the_job(
    tmp_path: Path, open_user: Any
) -> None:
    [job] = await run_and_kill(tmp_path, [shell("sleep 300")])
    rewrite_start(tmp_path, job, str(os.getpid()), socket.gethostname())
    async with open_user(tmp_path) as user:
        assert (await user.until_over(job["job_id"]))["state"] == "FAILED"
    os.killpg(int(job["native_id"]), signal.SIGKILL)


async def test_a_job_on_another_host_is_running_until_its_files_say_otherwise(
    tmp_path: Path, open_user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_psij.jobs.CANCEL_GRACE", 0.05)
    [job] = await run_and_kill(tmp_path, [shell("echo up; sleep 300")])
    rewrite_start(tmp_path, job, job["native_id"], "elsewhere")
    async with open_user(tmp_path) as user:
        assert (await user.status(job["job_id"]))["state"] == "ACTIVE"
        reply = await user.post(f"cancel/lab/{job['job_id']}")
        assert reply.json()["status"] == "canceling"
        assert psutil.pid_exists(int(job["native_id"]))
        os.killpg(int(job["native_id"]), signal.SIGTERM)
        assert (await user.until_over(job["job_id"]))["state"] == "CANCELED"


async def test_a_job_found_again_is_cancelled_with_its_children(
    tmp_path: Path, open_user: Any, until: Any, has_ended: Any
) -> None:
    [job] = await run_and_kill(tmp_path, [shell("sleep 300 & echo up; wait")])
    async with open_user(tmp_path) as user:
        await user.until_prints(job["job_id"], "up")
        children = psutil.Process(int(job["native_id"])).children(recursive=True)
        reply = await user.post(f"cancel/lab/{job['job_id']}")
        assert reply.json()["status"] == "canceled"
        await until(lambda: all(has_ended(child.pid) for child in children))


async def test_a_cancellation_is_carried_on_after_a_restart(
    tmp_path: Path, open_user: Any, until: Any, has_ended: Any
) -> None:
    [job] = await run_and_kill(tmp_path, [shell("sleep 300")])
    change_record(tmp_path, job["job_id"], cancel_requested=True)
    async with open_user(tmp_path) as user:
        assert (await user.until_over(job["job_id"]))["state"] == "CANCELED"
        await until(lambda: has_ended(job["native_id"]))


async def test_a_job_that_was_accepted_but_not_started_is_started_once(
    tmp_path: Path, open_user: Any
) -> None:
    async with open_user(tmp_path) as user:
        job_id = await user.submit(f"echo x >>{tmp_path}/count")
        await user.until_over(job_id)
    undo_start(tmp_path, job_id)
    async with open_user(tmp_path) as user:
        found = await user.until_over(job_id)
        assert (found["state"], found["exit_code"]) == ("COMPLETED", 0)
        assert found["native_id"] is not None
    assert (tmp_path / "count").read_text() == "x\nx\n"


async def test_a_job_that_cannot_be_started_any_more_is_failed(
    tmp_path: Path, open_user: Any
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    async with open_user(tmp_path / "s") as user:
        job_id = await user.submit("true", directory=str(work))
        await user.until_over(job_id)
    undo_start(tmp_path / "s", job_id)
    work.rmdir()
    async with open_user(tmp_path / "s") as user:
        found = await user.until_over(job_id)
    assert found["state"] == "FAILED"
    assert str(work) in found["message"]


async def test_a_job_cancelled_before_it_started_is_not_started(
    tmp_path: Path, open_user: Any
) -> None:
    async with open_user(tmp_path) as user:
        job_id = await user.submit(f"echo x >>{tmp_path}/count")
        await user.until_over(job_id)
    undo_start(tmp_path, job_id, cancel_requested=True)
    async with open_user(tmp_path) as user:
        assert (await user.until_over(job_id))["state"] == "CANCELED"
    assert (tmp_path / "count").read_text() == "x\n"


async def test_of_two_starts_the_first_one_is_the_job(
    tmp_path: Path, open_user: Any, until: Any, has_ended: Any
) -> None:
    """A start that the dying endpoint began, and its successor's: the script itself decides."""
    gate = tmp_path / "gate"
    script = f"echo x >>{tmp_path}/count; until [ -e {gate} ]; do sleep 0.02; done; exit 4"
    [job] = await run_and_kill(tmp_path / "s", [shell(script)])
    await until((tmp_path / "count").exists)
    async with open_user(tmp_path / "s") as user:
        jobs = user.served.plugin.jobs
        found = jobs.get("lab", job["job_id"])
        await jobs._launch(found)
        await until(lambda: has_ended(found.record.native_id))
        gate.touch()
        end = await user.until_over(job["job_id"])
    assert (end["state"], end["exit_code"]) == ("FAILED", 4)
    assert (tmp_path / "count").read_text() == "x\n"


async def test_a_submit_repeated_after_a_kill_is_the_same_job(
    tmp_path: Path, open_user: Any, fault: Any
) -> None:
    spec = shell("sleep 300")
    [job] = await run_and_kill(tmp_path, [spec])
    forget(tmp_path, "replies")  # as if it had been killed before it could keep its reply
    async with open_user(tmp_path) as user:
        reply = await user.try_submit("key0", **spec)
        assert reply.json()["job_id"] == job["job_id"]
        other = await user.try_submit("key0", **shell("true"))
        assert fault(other) == (422, "idempotency_mismatch")
        await user.post(f"cancel/lab/{job['job_id']}")


async def test_jobs_whose_session_is_gone_are_ended_and_deleted(
    tmp_path: Path, open_user: Any, until: Any, has_ended: Any
) -> None:
    running, over = await run_and_kill(tmp_path, [shell("sleep 300"), shell("true")])
    await until(lambda: exists(tmp_path, over, "exit"))
    forget(tmp_path, "sessions")
    async with open_user(tmp_path, sid="other"):
        await until(lambda: has_ended(running["native_id"]))
        await until(lambda: not mark_of(tmp_path, "x", "exit").parent.exists())


async def test_a_session_of_the_same_id_does_not_get_somebody_elses_jobs(
    tmp_path: Path, open_user: Any, until: Any, has_ended: Any
) -> None:
    [job] = await run_and_kill(tmp_path, [shell("echo secret; sleep 300")])
    change_record(tmp_path, "lab", space="sessions", owner="bob")
    async with open_user(tmp_path, principal=BOB) as user:
        assert (await user.get("list_jobs/lab")).json() == {"jobs": []}
        await until(lambda: has_ended(job["native_id"]))
        await until(lambda: not exists(tmp_path, job, "out"))
        assert user.heard(job["job_id"]) == []


async def test_a_record_that_cannot_be_read_harms_no_other(
    tmp_path: Path, open_user: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_user(tmp_path) as user:
        good, bad = await user.submit("true"), await user.submit("true")
        await user.until_over(good)
        await user.until_over(bad)
    change_record(tmp_path, bad, from_a_later_version=1)
    async with open_user(tmp_path) as user:
        assert [job["job_id"] for job in (await user.get("list_jobs/lab")).json()["jobs"]] == [good]
    assert f"job {bad} does not come back" in caplog.text


async def test_output_is_followed_across_a_restart(tmp_path: Path, open_user: Any) -> None:
    gate = tmp_path / "gate"
    [job] = await run_and_kill(
        tmp_path / "s", [shell(f"echo 1; until [ -e {gate} ]; do sleep 0.02; done; echo 2")]
    )
    async with open_user(tmp_path / "s") as user, anyio.create_task_group() as group:
        group.start_soon(anyio.Path(gate).touch)
        reply = await user.get(f"output/lab/{job['job_id']}?follow=true")
    assert reply.text == "1\n2\n"


async def test_states_are_written_after_the_disk_came_back(
    tmp_path: Path,
    open_user: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    until: Any,
) -> None:
    monkeypatch.setattr("orbit_psij.journal.RETRY_DELAY", 0.05)
    async with open_user(tmp_path) as user:
        job_id = await user.submit(f"until [ -e {tmp_path}/gate ]; do sleep 0.02; done")
        await user.until(job_id, lambda found: found["state"] == "ACTIVE")
        lock = sqlite3.connect(tmp_path / "state.sqlite3", check_same_thread=False)
        await anyio.to_thread.run_sync(lock.execute, "BEGIN EXCLUSIVE")
        (tmp_path / "gate").touch()
        await until(lambda: "not written" in caplog.text)
        lock.close()
        assert (await user.until_over(job_id))["state"] == "COMPLETED"
    async with open_user(tmp_path) as user:
        assert (await user.status(job_id))["state"] == "COMPLETED"
        assert user.heard(job_id) == []
