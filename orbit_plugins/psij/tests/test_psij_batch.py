from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from blockbuster import blockbuster_ctx
from orbit_psij import JobRefused, JobSpec, PSIJClient, SubmitFailed, UnknownJob

from orbit_core.batch import SchedulerUnavailable
from orbit_core.errors import BadRequest, InvalidBody
from orbit_core.models import Notification
from orbit_core.testing import open_plugin

pytestmark = pytest.mark.anyio

PATIENCE = 30.0


@attrs.define(eq=False)
class User:
    """Work in one session of the plugin beside a scheduler."""

    client: PSIJClient
    notifications: list[Notification]

    async def submit(self, script: str, key: str | None = None, **spec: Any) -> dict[str, Any]:
        job = {"executable": "/bin/sh", "arguments": ["-c", script], **spec}
        return await self.client.submit_job(job, "slurm", key)

    async def until(self, job: dict[str, Any], state: str) -> dict[str, Any]:
        with anyio.fail_after(PATIENCE):
            while True:
                status = await self.client.get_job_status(job["job_id"])
                if status["state"] == state:
                    return status
                await anyio.sleep(0.02)

    async def until_over(self, job: dict[str, Any]) -> dict[str, Any]:
        return await self.client.wait_job(job["job_id"], PATIENCE)

    def states(self, job: dict[str, Any]) -> list[str]:
        return [
            note.data["state"]
            for note in self.notifications
            if note.topic == "job_status" and note.data["job_id"] == job["job_id"]
        ]


@asynccontextmanager
async def _open(directory: Path, scheduler: str) -> AsyncIterator[User]:
    with blockbuster_ctx("orbit_psij"):
        async with (
            open_plugin(
                "orbit_psij.plugin:PSIJPlugin", directory, instance="psij", scheduler=scheduler
            ) as served,
            served.http() as http,
        ):
            client = PSIJClient(http, "/psij")
            await client.register_session(sid="lab", lifetime="persistent")
            yield User(client, served.notifications)


Opener = Callable[..., AbstractAsyncContextManager[User]]


@pytest.fixture
def open_user(slurm: Any, tmp_path: Path) -> Opener:
    """Open the plugin with its state in one directory."""
    return partial(_open, tmp_path / "state", "slurm")


@pytest.fixture
async def user(open_user: Opener) -> AsyncIterator[User]:
    async with open_user() as found:
        yield found


def marks(tmp_path: Path, job: dict[str, Any], kind: str) -> Path:
    return Path(f"{tmp_path}/state/plugins/psij/output/lab/{job['job_id']}.{kind}")


async def test_a_job_goes_through_the_queue(user: User) -> None:
    job = await user.submit("echo out; echo err >&2", name="n")
    status = await user.until_over(job)
    assert (status["state"], status["stdout"], status["stderr"]) == ("COMPLETED", "out\n", "err\n")
    assert (status["native_id"], status["failure"]) == ("1000", None)
    assert user.states(job) == ["QUEUED", "ACTIVE", "COMPLETED"]
    assert await user.client.executors() == ["local", "slurm"]


async def test_an_exit_code_is_the_cause(user: User) -> None:
    status = await user.until_over(await user.submit("exit 3"))
    assert (status["state"], status["exit_code"], status["message"]) == ("FAILED", 3, "exit code 3")
    assert status["failure"]["cause"] == "exit_code"


@pytest.mark.parametrize(
    ("native", "state", "cause", "message"),
    [
        ("TIMEOUT", "FAILED", "walltime", "ran longer than its walltime"),
        ("OUT_OF_MEMORY", "FAILED", "out_of_memory", "out of memory"),
        ("NODE_FAIL", "FAILED", "node_failure", "a node failed"),
        ("PREEMPTED", "FAILED", "preemption", "preempted by another job"),
        ("CANCELLED", "CANCELED", "cancelled", "cancelled"),
    ],
)
async def test_the_schedulers_cause_counts_before_the_exit_code(
    user: User, slurm: Any, native: str, state: str, cause: str, message: str
) -> None:
    gate = slurm.folder / "gate"
    job = await user.submit(f"until [ -e {gate} ]; do sleep 0.02; done; exit 143")
    await user.until(job, "ACTIVE")
    slurm.change("1000", state=native)
    gate.touch()
    status = await user.until_over(job)
    assert (status["state"], status["failure"]["cause"], status["message"]) == (
        state, cause, message
    )  # fmt: skip


async def test_a_job_of_which_only_its_scheduler_tells_the_end(user: User, slurm: Any) -> None:
    jobs_ = [await user.submit("true", custom_attributes={"slurm.hold": True}) for _ in range(3)]
    for job, state in zip(jobs_, ("COMPLETED", "TIMEOUT", "RUNNING"), strict=True):
        slurm.change(job["native_id"], state=state, reason="None")
    await user.until(jobs_[2], "ACTIVE")
    slurm.change(jobs_[2]["native_id"], state="FAILED", code=7)
    ends = [await user.until_over(job) for job in jobs_]
    assert [(end["state"], end["exit_code"]) for end in ends] == [
        ("COMPLETED", 0), ("FAILED", None), ("FAILED", 7)
    ]  # fmt: skip


async def test_a_job_that_vanished_is_failed(user: User, slurm: Any) -> None:
    job = await user.submit("true", custom_attributes={"slurm.hold": True})
    slurm.forget("1000")
    status = await user.until_over(job)
    assert (status["state"], status["exit_code"]) == ("FAILED", None)
    assert status["message"] == "the scheduler knows the job no more, and it left no exit code"


@pytest.mark.parametrize("is_gone", [True, False])
async def test_a_scheduler_that_does_not_tell_why_leaves_the_exit_code(
    user: User, slurm: Any, is_gone: bool
) -> None:
    gate = slurm.folder / "gate"
    job = await user.submit(f"until [ -e {gate} ]; do sleep 0.02; done; exit 9")
    await user.until(job, "ACTIVE")
    if is_gone:
        slurm.forget("1000")
    else:
        (slurm.folder / "down").touch()
    gate.touch()
    assert (await user.until_over(job))["message"] == "exit code 9"


@pytest.mark.parametrize("is_held", [True, False])
async def test_a_job_is_cancelled(user: User, slurm: Any, is_held: bool) -> None:
    job = await user.submit("sleep 300", custom_attributes={"slurm.hold": is_held})
    await user.until(job, "QUEUED" if is_held else "ACTIVE")
    assert (await user.client.cancel_job(job["job_id"]))["status"] == "canceled"
    assert (await user.until_over(job))["message"] == "cancelled by its user"
    assert slurm.jobs()["1000"]["state"] == "CANCELLED"


async def test_a_cancellation_is_repeated_once_the_scheduler_answers(
    user: User, slurm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_psij.jobs.CANCEL_GRACE", 0.05)
    job = await user.submit("sleep 300")
    await user.until(job, "ACTIVE")
    (slurm.folder / "down").touch()
    assert (await user.client.cancel_job(job["job_id"]))["status"] == "canceling"
    (slurm.folder / "down").unlink()
    assert (await user.until_over(job))["state"] == "CANCELED"


async def test_closing_a_session_cancels_its_batch_jobs(
    open_user: Opener, slurm: Any, until: Any
) -> None:
    async with open_user() as user:
        job = await user.submit("sleep 300")
        await user.until(job, "ACTIVE")
        await user.client.unregister_session()
        await until(lambda: slurm.jobs()["1000"]["state"] == "CANCELLED")


async def test_what_the_scheduler_refuses_is_told_in_its_words(user: User) -> None:
    with pytest.raises(JobRefused, match="invalid partition specified: nowhere"):
        await user.submit("true", attributes={"queue_name": "nowhere"})
    assert await user.client.list_jobs() == []


async def test_a_scheduler_that_is_down_is_told(user: User, slurm: Any) -> None:
    (slurm.folder / "down").touch()
    with pytest.raises(SchedulerUnavailable, match="Unable to contact slurm controller"):
        await user.submit("true")
    assert await user.client.list_jobs() == []


async def test_a_job_that_was_taken_without_an_answer_is_found(
    user: User, slurm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_psij.batch.SUBMIT_DEADLINE", 1.0)
    (slurm.folder / "slow").touch()
    job = await user.submit("echo once")
    assert (await user.until_over(job))["stdout"] == "once\n"
    assert list(slurm.jobs()) == ["1000"]


async def test_a_job_that_was_given_up_never_runs(user: User, slurm: Any, tmp_path: Path) -> None:
    job = await user.submit(f"touch {tmp_path}/ran", custom_attributes={"slurm.hold": True})
    marks(tmp_path, job, "job").rename(tmp_path / "script")
    slurm.change("1000", script=str(tmp_path / "script"))
    slurm.release("1000")
    status = await user.until_over(job)
    assert (status["state"], status["exit_code"]) == ("FAILED", 125)
    assert not (tmp_path / "ran").exists()


async def test_an_array_has_a_state_for_each_element(user: User, tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"in{index}").write_text(f"input {index}\n")
    job = await user.submit(
        "cat; echo $ORBIT_ARRAY_INDEX; test $ORBIT_ARRAY_INDEX -ne 1",
        count=3,
        directory=str(tmp_path),
        stdin_path=f"{tmp_path}/in{{array_index}}",
        stdout_path="out{array_index}",
    )
    status = await user.until_over(job)
    assert [element["state"] for element in status["elements"]] == [
        "COMPLETED", "FAILED", "COMPLETED"
    ]  # fmt: skip
    outputs = [(tmp_path / f"out{index}").read_text() for index in range(3)]
    assert outputs == [f"input {index}\n{index}\n" for index in range(3)]
    assert (status["state"], status["message"]) == ("FAILED", "1 of 3 FAILED: [1] exit code 1")


async def test_elements_of_an_array_have_their_own_output(user: User) -> None:
    job = await user.submit("echo $ORBIT_ARRAY_INDEX", count=2)
    parts = [part async for part in user.client.follow_output(job["job_id"], index=1)]
    assert b"".join(parts) == b"1\n"
    assert (await user.until_over(job))["state"] == "COMPLETED"
    with pytest.raises(BadRequest, match="has no element 2"):
        await anext(user.client.follow_output(job["job_id"], index=2))
    heard = [note.data for note in user.notifications if note.topic == "array_status"]
    assert {(news["index"], news["state"]) for news in heard} == {
        (index, state) for index in (0, 1) for state in ("ACTIVE", "COMPLETED")
    }


async def test_a_job_waits_for_others(user: User, slurm: Any) -> None:
    done = await user.submit("true")
    await user.until_over(done)
    first = await user.submit("true", custom_attributes={"slurm.hold": True})
    await user.submit(
        "true",
        after_ok=[done["job_id"], first["job_id"]],
        after_any=[first["job_id"]],
        custom_attributes={"slurm.hold": True},
    )
    assert "--dependency=afterok:1001,afterany:1001 " in slurm.jobs()["1002"]["argv"]
    with pytest.raises(UnknownJob):
        await user.submit("true", after_ok=["none"])
    failed = await user.submit("false")
    await user.until_over(failed)
    with pytest.raises(BadRequest, match="is FAILED already"):
        await user.submit("true", after_ok=[failed["job_id"]])


async def test_a_launcher_of_psij_finds_the_nodes(user: User, slurm: Any) -> None:
    (slurm.folder / "bin" / "scontrol").write_text("#!/bin/sh\nprintf 'n1\\nn2\\n'\n")
    spec = {"node_count": 2, "processes_per_node": 2}
    job = await user.submit("cat $PSIJ_NODEFILE", launcher="multiple", resources=spec)
    status = await user.until_over(job)
    assert status["state"] == "COMPLETED", status
    assert status["stdout"] == 4 * "n1\nn1\nn2\nn2\n"


async def test_a_restart_finds_jobs_in_the_queue_and_those_that_run(
    open_user: Opener, slurm: Any, tmp_path: Path, change_record: Any
) -> None:
    async with open_user() as user:
        gate = f"until [ -e {slurm.folder}/gate ]; do sleep 0.02; done; echo ran"
        running = await user.submit(gate)
        await user.until(running, "ACTIVE")
        array = await user.submit("true", count=2)
        await user.until_over(array)
        held = await user.submit("echo ran", "key", custom_attributes={"slurm.hold": True})
    for job in (running, held):
        change_record(tmp_path, job["job_id"], native_id=None, state="NEW")
    async with open_user() as user:
        (slurm.folder / "gate").touch()
        again = await user.submit("echo ran", "key", custom_attributes={"slurm.hold": True})
        assert again["job_id"] == held["job_id"]
        await user.until(held, "QUEUED")
        slurm.release(held["native_id"])
        ends = [await user.until_over(job) for job in (running, held)]
    assert [(end["stdout"], end["native_id"]) for end in ends] == [
        ("ran\n", "1000"), ("ran\n", "1002")
    ]  # fmt: skip


async def test_a_restart_submits_what_never_got_to_the_queue(
    open_user: Opener, slurm: Any, tmp_path: Path, change_record: Any
) -> None:
    async with open_user() as user:
        specs: list[dict[str, Any]] = [{}, {}, {"attributes": {"queue_name": "debug"}}]
        lost = [
            await user.submit("echo ran", custom_attributes={"slurm.hold": True}, **spec)
            for spec in specs
        ]
    for job in lost:
        change_record(tmp_path, job["job_id"], native_id=None, state="NEW")
        slurm.forget(job["native_id"])
    change_record(tmp_path, lost[1]["job_id"], cancel_requested=True)
    spec = {"executable": "date", "attributes": {"queue_name": "nowhere"}}
    change_record(tmp_path, lost[2]["job_id"], spec=spec)
    (slurm.folder / "down").touch()
    async with open_user() as user:
        (slurm.folder / "down").unlink()
        ends = [await user.until_over(job) for job in lost[1:]]
        found = await user.until(lost[0], "QUEUED")
    assert [end["state"] for end in ends] == ["CANCELED", "FAILED"]
    assert "invalid partition" in ends[1]["message"]
    assert found["native_id"] == "1000"


async def test_a_cancellation_outlasts_a_restart(
    open_user: Opener, slurm: Any, tmp_path: Path, change_record: Any
) -> None:
    async with open_user() as user:
        job = await user.submit("sleep 300")
        await user.until(job, "ACTIVE")
    change_record(tmp_path, job["job_id"], cancel_requested=True)
    async with open_user() as user:
        assert (await user.until_over(job))["state"] == "CANCELED"


async def test_jobs_of_a_scheduler_that_is_silent_at_the_start_are_followed(
    open_user: Opener, slurm: Any, tmp_path: Path
) -> None:
    async with open_user() as user:
        job = await user.submit("echo ran", custom_attributes={"slurm.hold": True})
    async with _open(tmp_path / "state", "none") as user:
        slurm.release("1000")
        assert (await user.until_over(job))["state"] == "COMPLETED"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"count": 0}, "count: must be 1 to 1000, not 0"),
        ({"count": 2, "launcher": "srun"}, "cannot have a launcher"),
        ({"custom_attributes": {"qos": "high"}}, "'qos' names no scheduler, as slurm.qos"),
        ({"custom_attributes": {"slurm.outp": "/x"}}, "'slurm.outp' cannot be given"),
        ({"arguments": ["a\nb"]}, r"arguments\[0\]: character U\+000A is not allowed"),
        ({"attributes": {"queue_name": "a\n#SBATCH --uid=0"}}, "is not allowed"),
    ],
    ids=["count", "array-launcher", "no-scheduler", "taken", "line", "injection"],
)
async def test_faults_of_a_batch_job_are_named(
    user: User, spec: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidBody, match=words):
        await user.client.submit_job({"executable": "true", **spec}, "slurm")


async def test_a_local_job_cannot_be_an_array_or_wait(user: User) -> None:
    spec = JobSpec("true", count=2, after_ok=["x"], after_any=["y"])
    with pytest.raises(InvalidBody, match=r"count: needs .*after_ok: needs .*after_any: needs"):
        await user.client.submit_job(spec)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"stdout_path": "x/" * 3000}, "could not be prepared"),
        ({"launcher": "jsrun", "resources": {"process_count": 2}}, None),
    ],
    ids=["path", "launcher"],
)
async def test_what_cannot_be_prepared_is_told(
    user: User, slurm: Any, spec: dict[str, Any], words: str | None
) -> None:
    if words is None:
        (slurm.folder / "bin" / "scontrol").write_text("#!/bin/sh\necho n1\n")
        status = await user.until_over(await user.submit("true", **spec))
        assert (status["state"], status["exit_code"]) == ("FAILED", 127)  # there is no jsrun here
        return
    with pytest.raises(SubmitFailed, match=words):
        await user.submit("true", **spec)


async def test_an_array_whose_elements_were_all_over_ends_after_a_restart(
    open_user: Opener, tmp_path: Path, change_record: Any
) -> None:
    async with open_user() as user:
        job = await user.submit("exit 2", count=2)
        await user.until_over(job)
    change_record(tmp_path, job["job_id"], state="ACTIVE", message=None)
    async with open_user() as user:
        status = await user.until_over(job)
    assert (status["state"], status["message"]) == ("FAILED", "2 of 2 FAILED: [0] exit code 2")


async def test_jobs_of_before_wait_for_a_scheduler_that_is_down(
    open_user: Opener,
    slurm: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    until: Any,
    change_record: Any,
) -> None:
    async with open_user() as user:
        job = await user.submit("true", custom_attributes={"slurm.hold": True})
    change_record(tmp_path, job["job_id"], native_id=None, state="NEW")
    (slurm.folder / "down").touch()
    async with open_user() as user:
        await until(lambda: "jobs of before are not found yet" in caplog.text)
        (slurm.folder / "down").unlink()
        assert (await user.until(job, "QUEUED"))["native_id"] == "1000"


@pytest.mark.parametrize("executor", ["lsf", "", 1, ["slurm"], None])
async def test_an_executor_that_is_not_there_is_a_fault(user: User, executor: Any) -> None:
    with pytest.raises(InvalidBody, match=r"is not offered here.*: use local, slurm"):
        await user.client.submit_job({"executable": "true"}, executor)


async def test_the_executor_of_a_host_without_scheduler_is_not_offered(
    slurm: Any, tmp_path: Path
) -> None:
    async with _open(tmp_path / "state", "none") as user:
        with pytest.raises(InvalidBody, match=r"'slurm' is not offered here .*: use local"):
            await user.submit("true")
