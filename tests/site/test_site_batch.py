import json
import sys
from pathlib import Path

import anyio
import pytest

from orbit_core.batch import (
    FailureCause,
    JobForbidden,
    JobState,
    PbsPro,
    SchedulerUnavailable,
    Slurm,
    UnknownBatchJob,
    find_batch_system,
    run,
)
from orbit_core.host_role import detect_host
from orbit_core.models import HostRole

pytestmark = [pytest.mark.site, pytest.mark.anyio]

ROOT = Path(__file__).parent.parent.parent

PATIENCE = 150.0
"""Seconds in which a job is over: walltimes are whole minutes, and looked at twice a minute."""

AS_USER = ("setpriv", "--reuid=labuser", "--regid=labuser", "--clear-groups", "--")


@pytest.fixture(params=["slurm", "pbs"])
def system(request, on_site, overrunning_job):
    """Be SLURM, then the PBS commands that drive the same SLURM."""
    return Slurm() if request.param == "slurm" else PbsPro()


@pytest.fixture(scope="session")
def overrunning_job(cluster):
    """Submit a job that will run longer than its walltime, while the other tests go on."""
    return cluster.run("sbatch", "--parsable", "--output=/dev/null", "--time=1", "--mem=10",
                       "--wrap=sleep 600")  # fmt: skip


class SlurmOfOther(Slurm):
    """Speak with SLURM as the second user."""

    async def run(self, *command, deadline=30.0):
        return await super().run(*AS_USER, *command, deadline=deadline)


class PbsOfOther(PbsPro):
    """Speak with PBS as the second user."""

    async def run(self, *command, deadline=30.0):
        return await super().run(*AS_USER, *command, deadline=deadline)


def named(system, job):
    """Return a job's number as the system has it."""
    return job if system.family == "slurm" else f"{job}.pbs-lab"


async def submit(system, cluster, script, *options):
    """Submit a script to SLURM, and return its id as the system has it."""
    command = ["sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}"]
    return named(system, cluster.run(*command))


async def until(system, job_id, condition):
    with anyio.fail_after(PATIENCE):
        while not condition(report := await system.report(job_id)):
            await anyio.sleep(0.1)
    return report


async def until_over(system, job_id):
    return await until(system, job_id, lambda report: report.state.is_final)


@pytest.mark.parametrize(
    ("script", "options", "state", "words"),
    [
        ("exit 0", (), JobState.DONE, "None"),
        ("exit 3", (), JobState.FAILED, "exit code 3"),
        ("kill -9 $$", (), JobState.FAILED, "killed by SIGKILL"),
        (
            'python3 -c "block = bytearray(300_000_000); input()"', ("--mem=50",),
            JobState.FAILED, "out of memory",
        ),
    ],
    ids=["good", "exit-code", "signal", "memory"],
)  # fmt: skip
async def test_the_end_of_a_job_is_told_with_its_cause(
    system, cluster, script, options, state, words
):
    report = await until_over(system, await submit(system, cluster, script, *options))

    assert (report.state, str(report.failure)) == (state, words)


async def test_a_job_that_we_cancel_is_cancelled(system, cluster):
    job = await submit(system, cluster, "sleep 600")
    await until(system, job, lambda report: report.state is JobState.RUNNING)

    await system.cancel(job)

    report = await until_over(system, job)
    assert (report.state, report.failure.cause) == (JobState.CANCELLED, FailureCause.CANCELLED)


async def test_the_accounting_tells_who_cancelled_a_job(cluster, on_site):
    slurm = Slurm()
    job = await submit(slurm, cluster, "sleep 600")
    await until(slurm, job, lambda report: report.state is JobState.RUNNING)
    await slurm.cancel(job)

    report = await until(
        slurm, job, lambda report: report.failure is not None and report.failure.cancelled_by
    )
    assert str(report.failure) == "cancelled by root"


async def test_a_held_job_is_held_until_it_is_cancelled(system, cluster):
    job = await submit(system, cluster, "true", "--hold")

    assert await system.job_state(job) is JobState.HELD
    await system.cancel(job)
    assert (await until_over(system, job)).state is JobState.CANCELLED


async def test_a_running_job_tells_its_nodes(system, cluster):
    job = await submit(system, cluster, "sleep 600", "--partition=batch", "--nodes=2")
    await until(system, job, lambda report: report.state is JobState.RUNNING)

    assert await system.job_nodes(job) == ["node01", "node02"]
    await system.cancel(job)
    await until_over(system, job)


async def test_an_array_of_twenty_with_two_failures(cluster, on_site):
    slurm = Slurm()
    script = "test $SLURM_ARRAY_TASK_ID -ne 3 -a $SLURM_ARRAY_TASK_ID -ne 17"
    array = await submit(slurm, cluster, script, "--array=0-19", "--mem=10")

    assert (await until_over(slurm, array)).state is JobState.FAILED
    reports = await slurm.reports(f"{array}_{index}" for index in range(20))
    failed = [name for name, report in reports.items() if report.state is JobState.FAILED]
    assert failed == [f"{array}_3", f"{array}_17"]
    assert {report.state for report in reports.values()} == {JobState.DONE, JobState.FAILED}


async def test_a_job_that_nobody_knows(system):
    job = named(system, "999999999")

    assert await system.job_state(job) is JobState.UNKNOWN
    with pytest.raises(UnknownBatchJob):
        await system.cancel(job)


async def test_another_users_job_cannot_be_cancelled(system, cluster):
    job = await submit(system, cluster, "true", "--hold")
    other = SlurmOfOther() if system.family == "slurm" else PbsOfOther()

    with pytest.raises(JobForbidden):
        await other.cancel(job)
    await system.cancel(job)


async def test_a_node_that_goes_down_is_the_cause(system, cluster):
    options = ("--nodelist=node03", "--no-requeue")
    job = await submit(system, cluster, "sleep 600", *options)
    await until(system, job, lambda report: report.state is JobState.RUNNING)

    await run("scontrol", "update", "node=node03", "state=down", "reason=test")
    report = await until_over(system, job)
    await run("scontrol", "update", "node=node03", "state=idle")
    cluster.wait_for_nodes()

    assert report.state is JobState.FAILED
    if system.family == "slurm":
        assert report.failure.cause is FailureCause.NODE_FAILURE


async def test_a_host_beside_a_scheduler_is_for_logins(system):
    assert await system.detect()
    assert (await detect_host()).role is HostRole.LOGIN


TELL = """
import anyio, attrs, json
from orbit_core.batch import batch_system
from orbit_core.host_role import detect_host

async def tell():
    host = await detect_host()
    system = batch_system(host.scheduler)
    allocation = attrs.asdict(await system.job_allocation())
    return {**allocation, "nodes": await system.nodelist(), "role": host.role}

print(json.dumps(anyio.run(tell)))
"""


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("slurm", "sbatch --partition=batch --nodes=2 --ntasks-per-node=2 --time=5 --account=proj2"
         " --job-name=tell --output={output} {script}"),
        ("pbs", "qsub -q batch -l select=2:ncpus=2,walltime=00:05:00 -A proj2 -N tell -j oe"
         " -o {output} {script}"),
    ],
    ids=["slurm", "pbs"],
)  # fmt: skip
async def test_a_job_sees_its_own_allocation(cluster, on_site, name, command):
    script, output = cluster.jobs / f"{name}.sh", cluster.jobs / f"{name}.out"
    python = f"cd {ROOT} && exec {sys.executable} -c '{TELL}'"
    script.write_text(f"#!/bin/sh\n{python}\n")
    done = await run(*command.format(output=output, script=script).split())
    job = done.check().split()[-1]

    await until_over(Slurm(), job.partition(".")[0])

    assert json.loads(output.read_text()) == {
        "job_id": job,
        "partition": "batch",
        "n_nodes": 2,
        "nodelist": {"slurm": "node[01-02]", "pbs": "node01,node02"}[name],
        "cpus_per_node": 2,
        "gpus_per_node": None,
        "account": "proj2",
        "job_name": "tell",
        "runtime": 300,
        "nodes": ["node01", "node02"],
        "role": "compute",
    }


async def test_a_job_that_runs_too_long_is_ended(system, overrunning_job):
    report = await until_over(system, named(system, overrunning_job))

    words = "ran longer than its walltime"
    assert (report.state, str(report.failure)) == (JobState.FAILED, words)


async def test_without_its_controller_slurm_is_unavailable(cluster, on_site, caplog):
    cluster.stop_controller()

    with pytest.raises(SchedulerUnavailable, match=r"squeue.*"):
        await Slurm().report("1")
    assert (await find_batch_system()).name == "none"
    assert "slurm is installed but does not answer" in caplog.text
    cluster.start_controller()


async def test_a_job_that_left_the_queue_is_found_in_the_accounting(cluster, on_site):
    slurm = Slurm()
    jobs = [await submit(slurm, cluster, script) for script in ("exit 0", "exit 3")]
    for job in jobs:
        await until_over(slurm, job)
    query = ("sacct", "--noheader", "--allocations", "--format=State", f"--jobs={','.join(jobs)}")
    with anyio.fail_after(PATIENCE):
        while (await run(*query)).stdout.split() != ["COMPLETED", "FAILED"]:
            await anyio.sleep(0.1)

    cluster.forget_jobs()

    reports = await slurm.reports(jobs)
    assert [report.state for report in reports.values()] == [JobState.DONE, JobState.FAILED]
    assert str(reports[jobs[1]].failure) == "exit code 3"
