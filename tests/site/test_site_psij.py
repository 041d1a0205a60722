from contextlib import asynccontextmanager

import anyio
import attrs
import pytest
from orbit_psij import PSIJClient

from orbit_core.batch import run
from orbit_core.errors import BadRequest
from orbit_core.models import HostRole, Notification
from orbit_core.testing import open_deployment, open_plugin

pytestmark = [pytest.mark.site, pytest.mark.anyio]

TARGET = "orbit_psij.plugin:PSIJPlugin"
PATIENCE = 150.0
"""Seconds in which a job is over: walltimes are whole minutes, and looked at twice a minute."""


@attrs.define(eq=False)
class User:
    """Work in one session of the plugin, with the jobs of one executor."""

    client: PSIJClient
    executor: str
    notifications: list[Notification]

    async def submit(self, script, **spec):
        spec = {"executable": "/bin/sh", "arguments": ["-c", script], **spec}
        return await self.client.submit_job(spec, self.executor)

    async def until(self, job, condition):
        with anyio.fail_after(PATIENCE):
            while not condition(status := await self.client.get_job_status(job["job_id"])):
                await anyio.sleep(0.05)
        return status

    async def until_active(self, job):
        return await self.until(job, lambda status: status["state"] == "ACTIVE")

    async def until_over(self, job):
        return await self.until(
            job, lambda status: status["state"] in ("COMPLETED", "FAILED", "CANCELED")
        )

    def states(self, job):
        return [
            note.data["state"]
            for note in self.notifications
            if note.topic == "job_status" and note.data["job_id"] == job["job_id"]
        ]


@asynccontextmanager
async def open_user(directory, executor, scheduler=None):
    async with (
        open_plugin(
            TARGET, directory, instance="psij", role=HostRole.LOGIN, scheduler=scheduler or executor
        ) as served,
        served.http() as http,
    ):
        client = PSIJClient(http, "/psij")
        await client.register_session(sid="lab", lifetime="persistent")
        yield User(client, executor, served.notifications)


@pytest.fixture(params=["slurm", "pbs"])
async def user(request, on_site, tmp_path):
    async with open_user(tmp_path, request.param) as found:
        yield found


@pytest.fixture
async def on_slurm(on_site, tmp_path):
    async with open_user(tmp_path, "slurm") as found:
        yield found


async def shown(job):
    """Return what scontrol(1) shows of a job."""
    number = job["native_id"].partition(".")[0]
    text = (await run("scontrol", "show", "job", number, "--oneliner")).check()
    return dict(field.partition("=")[::2] for field in text.split())


async def test_a_job_goes_from_the_queue_to_its_end(user):
    job = await user.submit("echo hello; echo oops >&2")

    status = await user.until_over(job)

    assert (status["state"], status["exit_code"], status["failure"]) == ("COMPLETED", 0, None)
    assert (status["stdout"], status["stderr"]) == ("hello\n", "oops\n")
    assert user.states(job) == ["QUEUED", "ACTIVE", "COMPLETED"]


@pytest.mark.parametrize(
    ("script", "spec", "cause", "words"),
    [
        ("exit 3", {}, "exit_code", "exit code 3"),
        ("kill -9 $$", {}, "signal", "exit code 137, as after SIGKILL"),
        (
            'exec python3 -c "block = bytearray(300_000_000); input()"',
            {"resources": {"memory": 50 * 1024 * 1024}},
            "out_of_memory",
            "out of memory",
        ),
    ],
    ids=["exit-code", "signal", "memory"],
)
async def test_a_failed_job_tells_why(user, script, spec, cause, words):
    job = await user.submit(script, **spec)

    status = await user.until_over(job)

    assert (status["state"], status["failure"]["cause"]) == ("FAILED", cause)
    assert status["message"].startswith(words)
    final = [note.data for note in user.notifications if note.topic == "job_status"][-1]
    assert (final["failure"], final["message"]) == (status["failure"], status["message"])


async def test_a_job_that_its_user_cancels_is_cancelled(user):
    job = await user.submit("sleep 600")
    await user.until_active(job)

    assert (await user.client.cancel_job(job["job_id"]))["status"] == "canceled"

    status = await user.until_over(job)
    assert (status["state"], status["message"]) == ("CANCELED", "cancelled by its user")


async def test_a_job_that_somebody_cancels_beside_us_says_so(user, cluster):
    job = await user.submit("sleep 600")
    await user.until_active(job)

    cluster.run("scancel", job["native_id"].partition(".")[0])

    status = await user.until_over(job)
    assert (status["state"], status["failure"]["cause"]) == ("CANCELED", "cancelled")
    if user.executor == "slurm":
        assert status["failure"]["cancelled_by"] == "root"


async def test_a_job_that_runs_longer_than_its_walltime(on_site, tmp_path):
    async with open_user(tmp_path / "1", "slurm") as one, open_user(tmp_path / "2", "pbs") as other:
        jobs = [
            (user, await user.submit("sleep 600", attributes={"duration": 60}))
            for user in (one, other)
        ]
        ends = [await user.until_over(job) for user, job in jobs]

    told = {(end["state"], end["failure"]["cause"], end["message"]) for end in ends}
    assert told == {("FAILED", "walltime", "ran longer than its walltime")}


async def test_a_job_whose_node_fails(on_slurm, cluster):
    job = await on_slurm.submit("sleep 600", custom_attributes={"slurm.nodelist": "node02"})
    await on_slurm.until_active(job)

    cluster.run("scontrol", "update", "node=node02", "state=down", "reason=test")
    status = await on_slurm.until_over(job)
    cluster.run("scontrol", "update", "node=node02", "state=idle")
    cluster.wait_for_nodes()

    assert (status["state"], status["failure"]["cause"]) == ("FAILED", "node_failure")


async def test_a_failed_job_of_others_silences_nobody(on_slurm, cluster):
    """PSI/J's own watch hears no more of any job, after one failed like this."""
    poison = cluster.run("sbatch", "--parsable", "--output=/dev/null", "--wrap=kill -9 $$")
    with anyio.fail_after(PATIENCE):
        while "FAILED" not in cluster.run("squeue", "--noheader", "--states=all",
                                          "--format=%T", f"--jobs={poison}"):  # fmt: skip
            await anyio.sleep(0.05)

    status = await on_slurm.until_over(await on_slurm.submit("exit 4"))

    assert (status["state"], status["exit_code"]) == ("FAILED", 4)


@pytest.mark.parametrize("executor", ["slurm", "pbs"])
async def test_output_is_followed_through_the_bridge_while_the_job_runs(
    on_site, tmp_path, executor
):
    gate = on_site.jobs / f"gate-{executor}"
    script = f"printf 'begun '; until [ -e {gate} ]; do sleep 0.1; done; printf 'ended €'"
    parts = b""
    async with (
        open_deployment(tmp_path) as deployment,
        deployment.endpoint("login", [TARGET], scheduler=executor),
        deployment.client() as bridge,
    ):
        client = await bridge.get_endpoint_client("login").get_plugin("psij")
        job = await User(client, executor, []).submit(script)
        with anyio.fail_after(PATIENCE):
            async for part in client.follow_output(job["job_id"]):
                parts += part
                if parts == b"begun ":
                    gate.touch()
        again = [part async for part in client.follow_output(job["job_id"], offset=6)]

    assert parts.decode() == "begun ended €"
    assert b"".join(again).decode() == "ended €"


@pytest.mark.parametrize(
    ("executor", "spec", "words"),
    [
        ("slurm", {"attributes": {"queue_name": "nowhere"}}, "invalid partition specified"),
        ("slurm", {"attributes": {"account": "nobody"}}, "Invalid account"),
        ("pbs", {"attributes": {"queue_name": "nowhere"}}, "Unknown queue"),
        ("pbs", {"attributes": {"account": "nobody"}}, "Invalid account"),
        ("slurm", {"custom_attributes": {"slurm.outp": "/x", "qos": "high"}}, "ORBIT sets it"),
        ("pbs", {"custom_attributes": {"pbs.o": "/x"}}, "ORBIT sets it"),
    ],
    ids=["queue", "account", "pbs-queue", "pbs-account", "taken", "pbs-taken"],
)
async def test_what_the_scheduler_refuses_is_told_in_its_words(
    on_site, tmp_path, executor, spec, words
):
    async with open_user(tmp_path, executor) as user:
        with pytest.raises(BadRequest, match=words):
            await user.submit("true", **spec)
        assert await user.client.list_jobs() == []


async def test_the_scheduler_hears_of_each_attribute(on_slurm, cluster, tmp_path):
    cluster.run(
        "scontrol", "create", "reservation=ours", "users=root", "starttime=now", "duration=10",
        "nodes=node04", "partition=gpu", "flags=ignore_jobs",
    )  # fmt: skip
    job = await on_slurm.submit(
        "sleep 600",
        name='a name; it\'s "odd"',
        directory=str(tmp_path),
        attributes={
            "duration": 600,
            "queue_name": "gpu",
            "account": "proj2",
            "reservation_id": "ours",
            "slurm.qos": "high",
            "node_count": 1,
        },
        resources={
            "processes_per_node": 2,
            "gpus_per_node": 2,
            "exclusive_node_use": True,
            "memory": 200 * 1024 * 1024,
        },
        custom_attributes={"slurm.constraint": "gpu&a100", "slurm.comment": "hi there"},
    )
    await on_slurm.until_active(job)
    found = await shown(job)
    found["TresPerNode"] = found["TresPerNode"].replace("gres:", "gres/")  # as before SLURM 24.05
    await on_slurm.client.cancel_job(job["job_id"])
    cluster.run("scontrol", "delete", "reservation=ours")

    wanted = {
        "TimeLimit": "00:10:00",
        "Partition": "gpu",
        "Account": "proj2",
        "Reservation": "ours",
        "QOS": "high",
        "Features": "gpu&a100",
        "NumNodes": "1",
        "OverSubscribe": "NO",
        "TresPerNode": "gres/gpu:2",
        "MinMemoryNode": "200M",
        "WorkDir": str(tmp_path),
        "JobName": "a",
        "Comment": "hi",
        "Requeue": "0",
        "NodeList": "node04",
    }
    assert {name: found.get(name) for name in wanted} == wanted


async def test_a_gpu_job_sees_its_gpus(user):
    job = await user.submit(
        "echo $CUDA_VISIBLE_DEVICES",
        attributes={"queue_name": "gpu"},
        resources={"gpus_per_node": 2, "node_count": 1},
    )

    assert (await user.until_over(job))["stdout"] == "0,1\n"


async def test_processes_on_several_nodes_are_started_by_a_launcher(on_slurm):
    job = await on_slurm.submit(
        "echo $SLURM_PROCID $SLURMD_NODENAME",
        launcher="srun",
        attributes={"queue_name": "batch"},
        resources={"node_count": 2, "processes_per_node": 2},
    )

    status = await on_slurm.until_over(job)

    assert (status["state"], status["message"]) == ("COMPLETED", None)
    assert sorted(status["stdout"].splitlines()) == [
        "0 node01", "1 node01", "2 node02", "3 node02"
    ]  # fmt: skip


async def test_environment_and_input_arrive_as_they_are(user):
    script = """printf '%s|%s|%s' "$A" "$(cat)" "$1" """
    job = await user.submit(
        script, environment={"A": "it's $HOME \\ \"x\""}, stdin="líne\n$(date)",
        arguments=["-c", script, "sh", "$(id) 'q' \\n"],
    )  # fmt: skip

    status = await user.until_over(job)

    assert status["stdout"] == "it's $HOME \\ \"x\"|líne\n$(date)|$(id) 'q' \\n"


async def test_an_array_of_twenty_with_two_failures(user, tmp_path):
    job = await user.submit(
        "echo $ORBIT_ARRAY_INDEX; test $ORBIT_ARRAY_INDEX -ne 3 -a $ORBIT_ARRAY_INDEX -ne 17",
        count=20,
        directory=str(tmp_path),
        stdout_path="out.{array_index}",
        resources={"memory": 10 * 1024 * 1024},
    )

    status = await user.until_over(job)

    failed = [element["index"] for element in status["elements"] if element["state"] == "FAILED"]
    assert failed == [3, 17]
    assert {element["state"] for element in status["elements"]} == {"COMPLETED", "FAILED"}
    assert (status["state"], status["message"]) == ("FAILED", "2 of 20 FAILED: [3] exit code 1")
    assert [(tmp_path / f"out.{index}").read_text() for index in range(20)] == [
        f"{index}\n" for index in range(20)
    ]
    heard = [note.data for note in user.notifications if note.topic == "array_status"]
    assert sorted(news["index"] for news in heard if news["state"] == "COMPLETED") == [
        index for index in range(20) if index not in failed
    ]


async def test_an_array_is_cancelled_as_a_whole(user):
    job = await user.submit("sleep 600", count=3, resources={"memory": 10 * 1024 * 1024})
    await user.until_active(job)

    await user.client.cancel_job(job["job_id"])

    status = await user.until_over(job)
    assert status["state"] == "CANCELED"
    assert {element["state"] for element in status["elements"]} == {"CANCELED"}


async def test_a_chain_of_jobs_runs_in_order(user, tmp_path):
    log = tmp_path / "log"
    first = await user.submit(f"sleep 1; echo first >> {log}; exit 1")
    second = await user.submit(f"echo second >> {log}", after_any=[first["job_id"]])
    third = await user.submit(f"echo third >> {log}", after_ok=[second["job_id"]])

    assert (await user.until_over(third))["state"] == "COMPLETED"
    assert log.read_text() == "first\nsecond\nthird\n"
    with pytest.raises(BadRequest, match="is FAILED already"):
        await user.submit("true", after_ok=[first["job_id"]])


async def test_a_job_that_waits_for_one_that_fails_never_runs(on_slurm):
    first = await on_slurm.submit("sleep 1; exit 1")
    second = await on_slurm.submit("echo never", after_ok=[first["job_id"]])

    status = await on_slurm.until_over(second)

    assert (status["state"], status["stdout"]) == ("CANCELED", "")


async def test_an_executor_that_psij_drives_runs_jobs_too(on_site, tmp_path):
    async with open_user(tmp_path, "pbs_classic", scheduler="slurm") as user:
        assert {"slurm", "pbs_classic"} <= {*await user.client.executors()}
        failing = await user.submit("echo hello; exit 7", name="fails", attributes={"duration": 60})
        sleeping = await user.submit("sleep 600", resources={"node_count": 2})

        await user.until_active(sleeping)
        assert (await shown(sleeping))["NumNodes"] == "2"
        assert (await shown(failing))["JobName"] == "fails"
        await user.client.cancel_job(sleeping["job_id"])

        status = await user.until_over(failing)
        assert (status["state"], status["exit_code"], status["stdout"]) == ("FAILED", 7, "hello\n")
        assert (await user.until_over(sleeping))["state"] == "CANCELED"
        with pytest.raises(BadRequest, match="Unknown queue"):
            await user.submit("true", attributes={"queue_name": "nowhere"})
