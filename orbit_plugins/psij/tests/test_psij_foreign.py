"""Jobs on schedulers that PSI/J drives, whose commands are played, and run the scripts they get."""

import importlib.util
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import attrs
import psij
import pytest
from blockbuster import blockbuster_ctx
from orbit_psij import JobRefused, PSIJClient
from orbit_psij.batch_options import Ticket
from orbit_psij.batches import find_batches
from orbit_psij.foreign import ForeignScheduler, make_executor
from orbit_psij.models import JobAttributes, JobResources, JobSpec
from packaging.version import Version
from psij.descriptor import Descriptor

from orbit_core.batch import JobState, SchedulerFailed
from orbit_core.errors import InvalidBody
from orbit_core.testing import open_plugin

pytestmark = pytest.mark.anyio

PATIENCE = 30.0

_FAKE = importlib.util.spec_from_file_location("fake_lsf", Path(__file__).with_name("fake_lsf.py"))
assert _FAKE is not None
assert _FAKE.loader is not None
fake_lsf = importlib.util.module_from_spec(_FAKE)
_FAKE.loader.exec_module(fake_lsf)


@attrs.define(eq=False)
class User:
    """Work in one session of the plugin, with the jobs of one executor."""

    client: PSIJClient
    executor: str

    async def submit(self, script: str, **spec: Any) -> dict[str, Any]:
        job = {"executable": "/bin/sh", "arguments": ["-c", script], **spec}
        return await self.client.submit_job(job, self.executor)

    async def until(self, job: dict[str, Any], state: str) -> dict[str, Any]:
        with anyio.fail_after(PATIENCE):
            while True:
                status = await self.client.get_job_status(job["job_id"])
                if status["state"] == state:
                    return status
                await anyio.sleep(0.02)

    async def until_over(self, job: dict[str, Any]) -> dict[str, Any]:
        return await self.client.wait_job(job["job_id"], PATIENCE)


@asynccontextmanager
async def _open(directory: Path, executor: str) -> AsyncIterator[User]:
    with blockbuster_ctx("orbit_psij"):
        async with (
            open_plugin("orbit_psij.plugin:PSIJPlugin", directory, instance="psij") as served,
            served.http() as http,
        ):
            client = PSIJClient(http, "/psij")
            await client.register_session(sid="lab", lifetime="persistent")
            yield User(client, executor)


@pytest.fixture(params=["lsf", "cobalt"])
def executor(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def folder(executor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hurry: None) -> Path:
    """Put the commands of a scheduler on PATH, and return the folder in which it lives."""
    found = tmp_path / "cluster"
    commands = fake_lsf.LSF if executor == "lsf" else fake_lsf.COBALT
    monkeypatch.setenv("PATH", f"{fake_lsf.install(found, commands)}:{os.environ['PATH']}")
    return found


Opener = Callable[[], AbstractAsyncContextManager[User]]


@pytest.fixture
def open_user(folder: Path, executor: str, tmp_path: Path) -> Opener:
    return partial(_open, tmp_path / "state", executor)


@pytest.fixture
async def user(open_user: Opener) -> AsyncIterator[User]:
    async with open_user() as found:
        yield found


async def test_a_job_goes_through_the_queue(user: User, executor: str) -> None:
    assert executor in await user.client.executors()

    job = await user.submit('echo "out $A"; cat; pwd >&2', name="my job", stdin="in\n",
                            directory="/tmp", environment={"A": "b c"})  # fmt: skip
    status = await user.until_over(job)

    assert (status["state"], status["exit_code"]) == ("COMPLETED", 0)
    assert (status["stdout"], status["stderr"]) == ("out b c\nin\n", "/tmp\n")
    assert status["native_id"] == "7001"


async def test_what_a_job_asks_for_arrives(user: User, folder: Path, executor: str) -> None:
    job = await user.submit(
        "true",
        name="my job",
        attributes={"duration": 3660, "queue_name": "batch", "account": "proj"},
        resources={"node_count": 2, "processes_per_node": 3},
        custom_attributes={f"{executor}.extra": "x"},
    )
    await user.until_over(job)

    asked = fake_lsf.jobs(folder)["7001"]["asked"]
    wanted = {
        "lsf": {"J": "my_job", "W": "1:1", "q": "batch", "P": "proj", "nnodes": "2", "n": "6",
                "extra": "x"},
        "cobalt": {"jobname": "my_job", "time": "1:1:0", "queue": "batch", "project": "proj",
                   "nodecount": "2", "proccount": "6", "extra": "x"},
    }[executor]  # fmt: skip
    assert asked | wanted == asked


async def test_a_job_that_fails_tells_its_exit_code(user: User, folder: Path) -> None:
    (folder / "reason").write_text("exited with status 3")
    status = await user.until_over(await user.submit("exit 3"))
    assert (status["state"], status["exit_code"], status["message"]) == ("FAILED", 3, "exit code 3")


async def test_a_job_leaves_nothing(user: User, tmp_path: Path) -> None:
    job = await user.submit("true")
    await user.until_over(job)
    assert list((tmp_path / "state").rglob(f"*{job['job_id']}*"))

    await user.client.unregister_session()

    left = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    marks = (job["job_id"], job["native_id"])
    assert [path for path in left if any(mark in path.name for mark in marks)] == []


async def test_a_queue_that_there_is_not_is_refused_in_the_schedulers_words(user: User) -> None:
    with pytest.raises(JobRefused, match="nowhere: No such queue"):
        await user.submit("true", attributes={"queue_name": "nowhere"})


async def test_a_running_job_is_cancelled(user: User) -> None:
    job = await user.submit("echo begun; sleep 600")
    await user.until(job, "ACTIVE")
    await user.client.cancel_job(job["job_id"])
    assert (await user.until_over(job))["state"] == "CANCELED"


async def test_a_waiting_job_is_cancelled(user: User, folder: Path) -> None:
    (folder / "hold").touch()
    job = await user.submit("true")
    assert (await user.until(job, "QUEUED"))["native_id"] == "7001"
    await user.client.cancel_job(job["job_id"])
    assert (await user.until_over(job))["state"] == "CANCELED"


async def test_a_job_goes_on_while_its_endpoint_is_away(open_user: Opener, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with open_user() as user:
        job = await user.submit(f"until [ -e {gate} ]; do sleep 0.02; done; echo done; exit 4")
        await user.until(job, "ACTIVE")
    gate.touch()
    async with open_user() as user:
        status = await user.until_over(job)
    assert (status["state"], status["exit_code"], status["stdout"]) == ("FAILED", 4, "done\n")


async def test_a_job_whose_submission_was_not_noted_runs_once(
    open_user: Opener, tmp_path: Path, change_record: Any
) -> None:
    counter = tmp_path / "runs"
    async with open_user() as user:
        job = await user.submit(f"echo run >>{counter}; sleep 1")
        await user.until(job, "ACTIVE")
    change_record(tmp_path, job["job_id"], native_id=None, state="NEW")
    async with open_user() as user:
        status = await user.until_over(job)
    assert (status["state"], status["native_id"]) == ("COMPLETED", "7001")
    assert counter.read_text() == "run\n"


async def test_a_job_that_dies_without_a_word_is_over(user: User, folder: Path) -> None:
    job = await user.submit("sleep 600")
    await user.until(job, "ACTIVE")
    fake_lsf.end(folder, job["native_id"])
    status = await user.until_over(job)
    assert (status["state"], status["exit_code"]) == ("FAILED", None)
    assert (
        "the job left no exit code" in status["message"]
        or "knows the job no more" in (status["message"])
    )


async def test_a_scheduler_that_is_down_ends_no_job(user: User, folder: Path, caplog: Any) -> None:
    gate = folder / "gate"
    job = await user.submit(f"until [ -e {gate} ]; do sleep 0.02; done")
    await user.until(job, "ACTIVE")
    (folder / "down").touch()
    with anyio.fail_after(PATIENCE):
        while "LSF is down" not in caplog.text:
            await anyio.sleep(0.02)
    gate.touch()
    assert (await user.until_over(job))["state"] == "COMPLETED"


async def test_what_psij_has_no_words_for_is_a_fault(user: User, executor: str) -> None:
    with pytest.raises(InvalidBody) as refused:
        await user.submit("true", count=3, after_ok=["x"], resources={"gpus_per_node": 1},
                          custom_attributes={"bare": 1})  # fmt: skip
    for name in ("count", "after_ok", "resources.gpus_per_node"):
        assert f"job_spec.{name}: PSI/J cannot ask for it there" in refused.value.detail
    assert f"'bare' names no scheduler, as {executor}.bare" in refused.value.detail


@pytest.mark.parametrize("executor", ["lsf"], indirect=True)
@pytest.mark.parametrize(
    ("reason", "state", "cause"),
    [
        ("TERM_RUNLIMIT: job killed after reaching LSF run time limit", "FAILED", "walltime"),
        ("TERM_MEMLIMIT: job killed after reaching LSF memory usage limit", "FAILED",
         "out_of_memory"),
        ("TERM_OWNER: job killed by owner", "CANCELED", "cancelled"),
    ],
    ids=["walltime", "memory", "owner"],
)  # fmt: skip
async def test_lsf_tells_why_it_ended_a_job(
    user: User, folder: Path, reason: str, state: str, cause: str
) -> None:
    (folder / "reason").write_text(reason)
    job = await user.submit("sleep 600")
    await user.until(job, "ACTIVE")
    fake_lsf.end(folder, job["native_id"])
    status = await user.until_over(job)
    assert (status["state"], status["failure"]["cause"]) == (state, cause)
    assert status["failure"]["detail"] == reason


@pytest.mark.parametrize("executor", ["lsf"], indirect=True)
async def test_a_job_that_psij_cannot_read_does_not_hide_the_others(
    folder: Path, tmp_path: Path, caplog: Any
) -> None:
    scheduler = ForeignScheduler("lsf", make_executor("lsf", tmp_path))
    for job_id, state in {"1": "RUN", "2": "NEWS", "3": "DONE"}.items():
        fake_lsf.change(folder, job_id, state=state)

    found = await scheduler.reports(["1", "2", "3", "4", "1"])

    states = {job_id: report.state for job_id, report in found.items()}
    assert states == {
        "1": JobState.RUNNING, "2": JobState.PENDING, "3": JobState.DONE, "4": JobState.UNKNOWN
    }  # fmt: skip
    assert "PSI/J does not understand job 2 of lsf: KeyError('NEWS')" in caplog.text


@pytest.mark.parametrize("executor", ["lsf"], indirect=True)
async def test_a_scheduler_that_fails_is_told_in_its_words(folder: Path, tmp_path: Path) -> None:
    scheduler = ForeignScheduler("lsf", make_executor("lsf", tmp_path))
    (folder / "down").touch()
    with pytest.raises(SchedulerFailed, match="bjobs: LSF is down"):
        await scheduler.reports(["1"])
    with pytest.raises(SchedulerFailed, match="bkill"):
        await scheduler.cancel("1")


@pytest.mark.parametrize("executor", ["lsf"], indirect=True)
async def test_a_reply_without_an_id_is_no_submission(folder: Path, user: User) -> None:
    (folder / "bin" / "bsub").write_text("#!/bin/sh\necho Request aborted by esub.\n")
    with pytest.raises(SchedulerFailed, match="did not tell its id: 'Request aborted by esub"):
        await user.submit("true")


@pytest.mark.parametrize("executor", ["lsf"], indirect=True)
async def test_executors_that_are_missing_say_why(user: User) -> None:
    found = await user.client.get("executors")
    assert [each["name"] for each in found["executors"]] == ["local", "lsf"]
    missing = {each["name"]: each["reason"] for each in found["missing"]}
    assert missing["cobalt"] == "qsub, qstat, qdel not on PATH"
    assert "Python package flux" in missing["flux"]
    with pytest.raises(InvalidBody, match=r"'cobalt' is not offered here \(qsub, qstat, qdel not"):
        await user.client.submit_job({"executable": "true"}, "cobalt")


async def test_cobalt_is_not_offered_for_the_commands_of_pbs_pro(
    executor: str, folder: Path, tmp_path: Path
) -> None:
    offer, _ = find_batches("pbs", set(), tmp_path)
    assert offer.names[-1] == "pbs"
    assert "cobalt" not in offer.names
    assert executor == "lsf" or "those of PBS Pro: use pbs" in offer.missing["cobalt"]


@pytest.fixture
def torque(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a qstat on PATH, and return what has it run a line of shell."""
    commands = fake_lsf.install(tmp_path / "cluster", fake_lsf.COBALT)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")

    def answer(line: str) -> None:
        (commands / "qstat").write_text(f"#!/bin/sh\n{line}\n")

    return answer


def test_what_a_job_asks_of_openpbs_is_in_its_script(torque: object, tmp_path: Path) -> None:
    offer, _ = find_batches("none", set(), tmp_path)
    spec = JobSpec("/bin/true", name="my job", attributes=JobAttributes(60, "batch"),
                   resources=JobResources(node_count=2, processes_per_node=3))  # fmt: skip
    ticket = Ticket(tmp_path / "job 1.job", tmp_path / "job 1.batch", [], [])

    command = offer.dialects["pbs_classic"].submission(spec, ticket, {})

    script = Path(command[1]).read_text()
    assert command == ["qsub", str(tmp_path / "job 1.submit")]
    for line in ('#PBS -N "my_job"', "#PBS -l nodes=2:ppn=3", "#PBS -q batch",
                 "#PBS -l walltime=0:1:0", f"exec >>'{tmp_path}/job 1.batch' 2>&1",
                 f"exec /bin/sh '{tmp_path}/job 1.job' "):  # fmt: skip
        assert line in script.splitlines()


async def test_openpbs_tells_of_jobs_that_are_over_and_of_none(
    torque: Callable[[str], None], tmp_path: Path
) -> None:
    scheduler = ForeignScheduler("pbs_classic", make_executor("pbs_classic", tmp_path))
    known = {
        "1.pbs": {"job_state": "F", "Exit_status": 265}, "2.pbs": {"job_state": "R"},
        "3.pbs": {"job_state": "F", "Exit_status": 1},
    }  # fmt: skip
    torque(f"echo '{json.dumps({'Jobs': known})}'; exit 153")
    found = await scheduler.reports([*known, "4.pbs"])
    assert [report.state for report in found.values()] == [
        JobState.CANCELLED, JobState.RUNNING, JobState.FAILED, JobState.UNKNOWN
    ]  # fmt: skip
    for nothing in ("echo '{}'; exit 153", "echo qstat: Unknown Job Id 4.pbs >&2; exit 153"):
        torque(nothing)
        found = await scheduler.reports(["4.pbs", "5.pbs"])
        assert {report.state for report in found.values()} == {JobState.UNKNOWN}
    assert await scheduler.job_nodes("2.pbs") == []


def test_an_executor_that_drives_no_commands_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="executor local does not drive a scheduler"):
        make_executor("local", tmp_path)


def test_an_executor_of_another_distribution_is_offered_or_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site_executors.py").write_text(
        "from psij.executors.batch.lsf import LsfJobExecutor\nclass Site(LsfJobExecutor): pass\n"
    )
    monkeypatch.setattr(psij.JobExecutor, "_executors", dict(psij.JobExecutor._executors))
    for name, place in {"site": "site_executors.Site", "broken": "nowhere.Site"}.items():
        descriptor = Descriptor(name, Version("0.1"), place)
        psij.JobExecutor.register_executor(descriptor, str(tmp_path))

    offer, _ = find_batches("none", set(), tmp_path)

    assert (offer.names, offer.dialects["site"].prefix) == (["local", "site"], "site")
    assert "nowhere" in offer.missing["broken"]


def test_an_executor_with_jobs_of_before_is_not_given_up(tmp_path: Path) -> None:
    offer, batches = find_batches("none", {"lsf"}, tmp_path)
    assert (offer.names, list(batches)) == (["local"], ["lsf"])
