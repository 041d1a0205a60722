import os
import signal
from collections.abc import Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import orbit_psij.jobs
import pytest

import orbit_core.plugin
from orbit_core.testing import ALICE
from orbit_core.web import Site

pytestmark = pytest.mark.anyio

Fault = Callable[[httpx.Response], tuple[int, str]]


def leftovers(directory: Path) -> list[Path]:
    output = directory / "plugins/psij/output"
    return list(output.iterdir()) if output.exists() else []


async def test_cancelling_ends_all_processes_of_a_job(
    user: Any, tmp_path: Path, until: Any, has_ended: Any
) -> None:
    pids = tmp_path / "pids"
    job_id = await user.submit(
        f"sleep 300 & echo $! >{pids}; setsid sleep 300 & echo $! >>{pids}; echo up; wait"
    )
    await user.until_prints(job_id, "up")
    reply = await user.post(f"cancel/{user.sid}/{job_id}")
    assert reply.json() == {"job_id": job_id, "status": "canceled"}
    found = await user.status(job_id)
    assert (found["state"], found["message"]) == ("CANCELED", "cancelled by its user")
    await until(lambda: all(map(has_ended, pids.read_text().split())))
    assert [news["state"] for news in user.heard(job_id)] == ["QUEUED", "ACTIVE", "CANCELED"]


async def test_a_job_that_ends_well_when_asked_to_is_still_cancelled(user: Any) -> None:
    job_id = await user.submit(
        "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    )
    await user.until_prints(job_id, "up")
    await user.post(f"cancel/{user.sid}/{job_id}")
    found = await user.status(job_id)
    assert (found["state"], found["exit_code"], found["stdout"]) == ("CANCELED", 0, "up\nbye\n")


async def test_a_job_that_resists_is_killed(user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orbit_psij.jobs, "CANCEL_GRACE", 0.3)
    job_id = await user.submit("trap '' TERM; echo up; while :; do sleep 0.05; done")
    await user.until_prints(job_id, "up")
    reply = await user.post(f"cancel/{user.sid}/{job_id}")
    assert reply.json()["status"] in ("canceled", "canceling")
    assert (await user.until_over(job_id))["state"] == "CANCELED"


async def test_cancelling_twice_at_once_is_one_cancellation(user: Any) -> None:
    job_id = await user.submit(
        "trap 'echo bye; exit 1' TERM; echo up; while :; do sleep 0.05; done"
    )
    await user.until_prints(job_id, "up")
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(user.post, f"cancel/{user.sid}/{job_id}")
    assert (await user.status(job_id))["stdout"].startswith("up\nbye\n")
    assert [news["state"] for news in user.heard(job_id)][2:] == ["CANCELED"]


async def test_cancelling_a_job_that_is_over_tells_how_it_ended(user: Any) -> None:
    job_id = await user.submit("exit 3")
    await user.until_over(job_id)
    reply = await user.post(f"cancel/{user.sid}/{job_id}")
    assert reply.json() == {"job_id": job_id, "status": "failed"}
    assert (await user.status(job_id))["state"] == "FAILED"


async def test_a_job_cancelled_while_it_starts_ends_cancelled(user: Any, until: Any) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(user.submit, "sleep 300")
        await until(lambda: len(user.served.plugin.jobs.of(user.sid)) > 0)
        early = [job.record.job_id for job in user.served.plugin.jobs.of(user.sid)]
        for job_id in early:
            group.start_soon(user.post, f"cancel/{user.sid}/{job_id}")
    for job_id in early:
        assert (await user.until_over(job_id))["state"] == "CANCELED"
    await user.post(f"unregister_session/{user.sid}")


async def test_closing_a_session_ends_its_jobs_and_deletes_their_output(
    user: Any, tmp_path: Path, fault: Fault, until: Any, has_ended: Any
) -> None:
    over = await user.submit("echo done")
    await user.until_over(over)
    running = await user.submit("echo up; sleep 300")
    pid = int((await user.until_prints(running, "up"))["native_id"])
    assert len(leftovers(tmp_path)) == 1
    await user.post(f"unregister_session/{user.sid}")
    assert fault(await user.get(f"status/{user.sid}/{over}")) == (404, "unknown_session")
    await until(lambda: has_ended(pid) and not leftovers(tmp_path))
    assert user.heard(running)[-1]["state"] == "CANCELED"


async def test_a_session_of_the_same_name_does_not_see_the_old_ones_jobs(
    user: Any, fault: Fault, until: Any
) -> None:
    script = "trap 'sleep 0.3; exit' TERM; echo up; while :; do sleep 0.05; done"
    old = (await user.try_submit("key", executable="/bin/sh", arguments=["-c", script])).json()[
        "job_id"
    ]
    await user.until_prints(old, "up")
    await user.post(f"unregister_session/{user.sid}")
    await user.post("register_session", {"sid": user.sid})
    assert (await user.get(f"list_jobs/{user.sid}")).json() == {"jobs": []}
    assert fault(await user.get(f"status/{user.sid}/{old}")) == (404, "unknown_job")
    await until(lambda: user.heard(old)[-1]["state"] == "CANCELED")


@pytest.fixture
def quick_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orbit_core.plugin, "SWEEP_INTERVAL", 0.05)


@pytest.mark.usefixtures("quick_sweeps")
async def test_a_running_job_keeps_its_session(tmp_path: Path, open_user: Any, until: Any) -> None:
    async with open_user(tmp_path) as user:
        await user.post("register_session", {"sid": "brief", "ttl": 0.4})
        user.sid = "brief"
        job_id = await user.submit(f"sleep 1; touch {tmp_path}/slept; sleep 300")
        await until((tmp_path / "slept").exists)
        assert (await user.status(job_id))["state"] == "ACTIVE"
        await user.post(f"unregister_session/{user.sid}")


async def test_a_session_tells_how_often_jobs_are_looked_at(user: Any) -> None:
    session = await user.served.plugin.sessions.get(ALICE, user.sid)
    assert session.poll_interval == 5.0


async def test_a_closed_session_takes_no_job(user: Any) -> None:
    session = await user.served.plugin.sessions.get(ALICE, user.sid)
    await session.close()
    reply = await user.try_submit(executable="/bin/true")
    assert reply.status_code == 410


@asynccontextmanager
async def following(user: Any, path: str) -> Any:
    """Call a route as a server does, and hand out its body parts as they come."""
    raw, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": "GET", "scheme": "http", "path": raw, "raw_path": raw.encode(),
        "query_string": query.encode(), "root_path": "", "headers": [], "client": None,
        "server": ("plugin", 80), "orbit.principal": ALICE,
    }  # fmt: skip
    left = anyio.Event()
    send, receive = anyio.create_memory_object_stream[bytes](1000)
    done = anyio.Event()

    async def incoming() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def outgoing(message: MutableMapping[str, Any]) -> None:
        if message.get("body"):
            await send.send(message["body"])

    async def call(site: Site) -> None:
        async with send:
            await site(scope, incoming, outgoing)
        done.set()

    async with anyio.create_task_group() as group, receive:
        group.start_soon(call, user.served._site)
        yield receive, left, done
        left.set()


async def collected(receive: Any, count: int) -> bytes:
    found = b""
    with anyio.fail_after(20):
        while len(found) < count:
            found += await receive.receive()
    return found


async def test_output_is_followed_while_it_is_written(user: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = await user.submit(f"echo one; until [ -e {gate} ]; do sleep 0.02; done; echo two")
    async with following(user, f"/psij/output/lab/{job_id}?follow=true") as (receive, _, done):
        assert await collected(receive, 4) == b"one\n"
        assert (await user.status(job_id))["state"] == "ACTIVE"
        gate.touch()
        assert await collected(receive, 4) == b"two\n"
        with anyio.fail_after(20):
            await done.wait()
    assert (await user.status(job_id))["state"] == "COMPLETED"


async def test_a_follower_that_leaves_ends_the_following(user: Any) -> None:
    job_id = await user.submit("echo one; sleep 300")
    async with following(user, f"/psij/output/lab/{job_id}?follow=true") as (receive, left, done):
        assert await collected(receive, 4) == b"one\n"
        left.set()
        with anyio.fail_after(5):
            await done.wait()
    assert (await user.status(job_id))["state"] == "ACTIVE"
    await user.post(f"cancel/{user.sid}/{job_id}")


async def test_a_follower_hears_the_end_when_the_session_closes(user: Any) -> None:
    job_id = await user.submit("echo one; sleep 300")
    async with following(user, f"/psij/output/lab/{job_id}?follow=true") as (receive, _, done):
        assert await collected(receive, 4) == b"one\n"
        await user.post(f"unregister_session/{user.sid}")
        with anyio.fail_after(20):
            await done.wait()


async def test_output_of_a_finished_job_comes_whole_or_from_an_offset(user: Any) -> None:
    job_id = await user.submit("head -c 300000 /dev/zero; printf 'end\\377'; echo err >&2")
    await user.until_over(job_id)
    for follow in ("true", "false"):
        reply = await user.get(f"output/{user.sid}/{job_id}?follow={follow}")
        assert reply.content == bytes(300_000) + b"end\xff"
        assert reply.headers["content-type"].startswith("text/plain")
    reply = await user.get(f"output/{user.sid}/{job_id}?offset=300001")
    assert reply.content == b"nd\xff"
    reply = await user.get(f"output/{user.sid}/{job_id}?stream=stderr&follow=true")
    assert reply.text == "err\n"


async def test_output_without_follow_ends_with_what_there_is(user: Any) -> None:
    job_id = await user.submit("echo one; sleep 300")
    await user.until_prints(job_id, "one")
    assert (await user.get(f"output/{user.sid}/{job_id}")).text == "one\n"
    await user.post(f"cancel/{user.sid}/{job_id}")


async def test_a_job_whose_script_is_killed_is_failed(user: Any) -> None:
    job_id = await user.submit("echo up; sleep 300")
    pid = int((await user.until_prints(job_id, "up"))["native_id"])
    os.killpg(pid, signal.SIGKILL)
    found = await user.until_over(job_id)
    assert (found["state"], found["exit_code"]) == ("FAILED", 137)
