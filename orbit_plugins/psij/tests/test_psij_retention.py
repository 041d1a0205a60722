import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orbit_psij.jobs
import orbit_psij.retention
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_psij.models import JobRecord, JobSpec, JobState
from orbit_psij.retention import Settings, due

pytestmark = pytest.mark.anyio

Fault = Callable[[httpx.Response], tuple[int, str]]
EXPIRED = (410, "job_expired")


async def finished(user: Any, script: str = "echo out", **spec: Any) -> str:
    job_id = str(await user.submit(script, **spec))
    await user.until_over(job_id)
    return job_id


async def listed(user: Any) -> list[str]:
    jobs = (await user.get("list_jobs/lab")).json()["jobs"]
    return [job["job_id"] for job in jobs]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orbit_psij.jobs, "FORGET_INTERVAL", 0.05)


async def test_a_job_that_ended_long_ago_is_gone_with_its_output(
    tmp_path: Path, open_user: Any, fault: Fault
) -> None:
    async with open_user(tmp_path) as user:
        job_id = await finished(user)
    for _ in range(2):
        async with open_user(tmp_path, keep_jobs=0.0) as user:
            assert await listed(user) == []
            assert fault(await user.get(f"status/lab/{job_id}")) == EXPIRED
            assert fault(await user.get(f"output/lab/{job_id}")) == EXPIRED
            assert fault(await user.post(f"cancel/lab/{job_id}")) == EXPIRED
    assert not (tmp_path / "plugins/psij/output/lab").exists()


@pytest.mark.usefixtures("hasty")
async def test_a_session_keeps_only_so_many_jobs_that_are_over(
    tmp_path: Path, open_user: Any, fault: Fault
) -> None:
    async with open_user(tmp_path, keep_jobs_count=1) as user:
        running = await user.submit("sleep 300")
        old, new = await finished(user), await finished(user)
        await user.until_gone(old)
        assert fault(await user.get(f"status/lab/{old}")) == EXPIRED
        assert await listed(user) == [running, new]
        await user.post(f"unregister_session/{user.sid}")


@pytest.mark.usefixtures("hasty")
async def test_the_oldest_expired_jobs_are_unknown_at_last(
    tmp_path: Path, open_user: Any, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orbit_psij.retention, "EXPIRED_KEPT", 1)
    async with open_user(tmp_path, keep_jobs_count=0) as user:
        first = await user.submit("true")
        await user.until_gone(first)
        second = await user.submit("true")
        await user.until_gone(second)
        assert fault(await user.get(f"status/lab/{second}")) == EXPIRED
        assert fault(await user.get(f"status/lab/{first}")) == (404, "unknown_job")


async def test_jobs_are_listed_oldest_first_after_a_restart(tmp_path: Path, open_user: Any) -> None:
    async with open_user(tmp_path) as user:
        jobs = [await finished(user) for _ in range(5)]
    async with open_user(tmp_path) as user:
        assert await listed(user) == jobs


async def test_a_key_is_free_again_when_its_time_is_over(
    tmp_path: Path, open_user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def submit(user: Any) -> str:
        reply = await user.try_submit("key", executable="/bin/true")
        await user.until_over(reply.json()["job_id"])
        return str(reply.json()["job_id"])

    def forget_replies() -> None:
        with sqlite3.connect(tmp_path / "state.sqlite3") as connection:
            connection.execute("DELETE FROM documents WHERE space = 'plugin/psij/replies'")
        connection.close()

    async with open_user(tmp_path) as user:
        first = await submit(user)
    forget_replies()
    async with open_user(tmp_path) as user:
        assert await submit(user) == first
    forget_replies()
    monkeypatch.setattr(orbit_psij.jobs, "REQUEST_KEPT", 0.0)
    async with open_user(tmp_path) as user:
        assert await submit(user) != first


@pytest.mark.usefixtures("hasty")
async def test_jobs_are_let_go_after_the_disk_came_back(
    tmp_path: Path, open_user: Any, caplog: pytest.LogCaptureFixture, until: Any
) -> None:
    async with open_user(tmp_path, keep_jobs=0.5) as user:
        job_id = await finished(user)
        store = user.served.plugin.context.documents.store
        await store.execute(lambda connection: connection.execute("PRAGMA query_only = 1"))
        await until(lambda: "old jobs stay for now" in caplog.text)
        await store.execute(lambda connection: connection.execute("PRAGMA query_only = 0"))
        await user.until_gone(job_id)


async def test_a_setting_that_is_misspelt_is_told(tmp_path: Path, open_user: Any) -> None:
    with pytest.raises(AssertionError, match="keep_job"):
        async with open_user(tmp_path, keep_job=1):
            raise RuntimeError("it is served all the same")


RECORDS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from([JobState.ACTIVE, JobState.COMPLETED, JobState.FAILED]),
        st.floats(0, 100),
    )
)


@given(RECORDS, st.floats(0, 100), st.integers(0, 5))
def test_what_is_kept_is_young_and_not_too_many(
    drawn: list[tuple[str, JobState, float]], keep: float, count: int
) -> None:
    records = [
        JobRecord(str(index), sid, "local", JobSpec("x"), 0.0, changed, state=state)
        for index, (sid, state, changed) in enumerate(drawn)
    ]
    gone = due(records, Settings(keep_jobs=keep, keep_jobs_count=count), 100.0)
    kept = [record for record in records if record not in gone and record.state.is_final]
    assert all(record.state.is_final for record in gone)
    assert all(record.changed >= 100.0 - keep for record in kept)
    for sid in ("a", "b"):
        mine = [record for record in kept if record.sid == sid]
        young = [
            record
            for record in records
            if record.sid == sid and record.state.is_final and record.changed >= 100.0 - keep
        ]
        assert len(mine) == min(count, len(young))
