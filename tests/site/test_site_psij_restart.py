import json
import sqlite3
import uuid
from contextlib import asynccontextmanager

import anyio
import pytest
from orbit_psij import PSIJClient

from orbit_core.models import HostRole
from orbit_core.testing import open_plugin
from tests.processes import open_site
from tests.waiting import until

pytestmark = [pytest.mark.site, pytest.mark.anyio]

PATIENCE = 60.0
HELD = {"slurm": {"slurm.hold": True}, "pbs": {"pbs.h": True}}
JOBS = "plugin/psij/jobs"


def shell(script, **spec):
    return {"executable": "/bin/sh", "arguments": ["-c", script], **spec}


@pytest.fixture(params=["slurm", "pbs"])
def executor(request, on_site):
    return request.param


@asynccontextmanager
async def open_client(directory, executor):
    async with (
        open_plugin(
            "orbit_psij.plugin:PSIJPlugin", directory, instance="psij", role=HostRole.LOGIN,
            scheduler=executor,
        ) as served,
        served.http() as http,
    ):  # fmt: skip
        client = PSIJClient(http, "/psij")
        await client.register_session(sid="lab", lifetime="persistent")
        yield client


async def until_over(client, job):
    return await client.wait_job(job["job_id"], PATIENCE)


async def until_active(client, job):
    with anyio.fail_after(PATIENCE):
        while (await client.get_job_status(job["job_id"]))["state"] != "ACTIVE":
            await anyio.sleep(0.05)


def change_record(directory, job_id, /, **changes):
    """Write down of a job what was known at another moment; a new ``job_id`` is another job."""
    with sqlite3.connect(directory / "state.sqlite3") as connection:
        found = "SELECT value FROM documents WHERE space = ? AND key = ?"
        (text,) = connection.execute(found, (JOBS, job_id)).fetchone()
        record = {**json.loads(text), **changes}
        connection.execute(
            "INSERT OR REPLACE INTO documents (space, key, value) VALUES (?, ?, ?)",
            (JOBS, record["job_id"], json.dumps(record)),
        )
    connection.close()


def forget_submission(directory, job):
    """Make a job look as after a crash between its submission and the note of it."""
    change_record(directory, job["job_id"], native_id=None, state="NEW")


async def test_a_job_whose_submission_was_not_noted_is_found_in_the_queue(
    executor, cluster, tmp_path
):
    spec = shell("echo ran", custom_attributes=HELD[executor])
    async with open_client(tmp_path, executor) as client:
        job = await client.submit_job(spec, executor, "key")
    forget_submission(tmp_path, job)

    async with open_client(tmp_path, executor) as client:
        again = await client.submit_job(spec, executor, "key")
        assert again["job_id"] == job["job_id"]
        cluster.run("scontrol", "release", job["native_id"].partition(".")[0])
        status = await until_over(client, job)
        listed = await client.list_jobs()

    assert (status["state"], status["native_id"]) == ("COMPLETED", job["native_id"])
    assert status["stdout"] == "ran\n"
    assert len(listed) == 1


async def test_a_running_job_whose_submission_was_not_noted_is_known_by_its_start(
    executor, cluster, tmp_path
):
    gate = tmp_path / "gate"
    async with open_client(tmp_path, executor) as client:
        script = f"until [ -e {gate} ]; do sleep 0.1; done; echo ran; exit 3"
        job = await client.submit_job(shell(script), executor)
        await until_active(client, job)
    forget_submission(tmp_path, job)

    async with open_client(tmp_path, executor) as client:
        await until_active(client, job)
        gate.touch()
        status = await until_over(client, job)

    assert (status["state"], status["native_id"]) == ("FAILED", job["native_id"])
    assert (status["stdout"], status["message"]) == ("ran\n", "exit code 3")


async def test_a_job_that_never_got_to_the_queue_is_submitted_once(executor, tmp_path):
    log = tmp_path / "log"
    async with open_client(tmp_path / "state", executor) as client:
        first = await client.submit_job(shell(f"echo ran >> {log}"), executor)
        await until_over(client, first)
    job = {"job_id": str(uuid.uuid4())}
    change_record(
        tmp_path / "state", first["job_id"], **job, native_id=None, state="NEW", exit_code=None
    )

    for _ in range(2):
        async with open_client(tmp_path / "state", executor) as client:
            status = await until_over(client, job)

    assert status["state"] == "COMPLETED"
    assert log.read_text() == "ran\nran\n"


async def test_a_second_launch_of_a_job_does_not_run_it_again(on_site, tmp_path, cluster):
    log = tmp_path / "log"
    async with open_client(tmp_path / "state", "slurm") as client:
        job = await client.submit_job(shell(f"echo ran >> {log}"), "slurm")
        await until_over(client, job)
        script = next((tmp_path / "state").rglob(f"{job['job_id']}.job"))
        cluster.run(
            "sbatch", "--wait", "--output=/dev/null", f"--wrap=sh {script}; test $? -eq 125"
        )

    assert log.read_text() == "ran\n"


async def test_why_a_job_failed_meanwhile_is_told_after_a_restart(executor, cluster, tmp_path):
    async with open_client(tmp_path, executor) as client:
        job = await client.submit_job(shell("sleep 600"), executor)
        await until_active(client, job)
    number = job["native_id"].partition(".")[0]
    cluster.run("scancel", number)
    await until(lambda: not cluster.run("squeue", "--noheader", f"--jobs={number}"), PATIENCE)

    async with open_client(tmp_path, executor) as client:
        status = await until_over(client, job)

    assert (status["state"], status["failure"]["cause"]) == ("CANCELED", "cancelled")


async def test_a_job_outlives_kill_9_of_its_endpoint_and_of_the_bridge(on_site, tmp_path):
    log, gates = tmp_path / "log", [tmp_path / f"gate{number}" for number in range(3)]
    script = f"echo $$ >> {log}; " + "".join(
        f"until [ -e {gate} ]; do sleep 0.1; done; echo {gate.name}; " for gate in gates
    )
    async with open_site(tmp_path) as site:
        await site.start_endpoint("login", "psij")
        async with site.client() as bridge:
            client = await bridge.get_endpoint_client("login").get_plugin(
                "psij", sid="lab", lifetime="persistent"
            )
            job = await client.submit_job(shell(script), "slurm", "key")
            await until_active(client, job)
            await site.kill("login")
            gates[0].touch()
            await until(lambda: b"gate0" in _output(tmp_path, job), PATIENCE)
            await site.start_endpoint("login", "psij")
            again = await client.submit_job(shell(script), "slurm", "key")
            await site.kill("bridge")
            gates[1].touch()
            await until(lambda: b"gate1" in _output(tmp_path, job), PATIENCE)
            await site.start_bridge()
        async with site.client() as bridge:
            await bridge.wait_for_endpoint("login", PATIENCE)
            client = await bridge.get_endpoint_client("login").get_plugin(
                "psij", sid="lab", lifetime="persistent"
            )
            found = await client.get_job_status(job["job_id"])
            gates[2].touch()
            status = await until_over(client, job)

    assert (again["job_id"], found["state"]) == (job["job_id"], "ACTIVE")
    assert (status["state"], status["native_id"]) == ("COMPLETED", job["native_id"])
    assert status["stdout"] == "gate0\ngate1\ngate2\n"
    assert len(log.read_text().split()) == 1


def _output(directory, job):
    return b"".join(path.read_bytes() for path in directory.rglob(f"{job['job_id']}.out"))
