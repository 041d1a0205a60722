import os
import subprocess

import pytest

from .daemons import wait_until

pytestmark = pytest.mark.site


def final_state(cluster, job):
    """Wait until a job is over, and return the state that the accounting has of it."""
    query = ("sacct", "--allocations", "--noheader", "--parsable2", "--format=State", "--jobs", job)
    over = ("COMPLETED", "FAILED", "OUT_OF_MEMORY")
    wait_until(lambda: cluster.run(*query) in over, f"job {job} is over")
    return cluster.run(*query)


def submit(cluster, script, *options):
    command = ("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}")
    return cluster.run(*command)


def as_user(cluster, *command):
    """Run a command as the second user."""
    environment = {**os.environ, **cluster.environment}
    done = subprocess.run(
        ["setpriv", "--reuid=labuser", "--regid=labuser", "--clear-groups", "--", *command],
        env=environment, cwd=cluster.jobs, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    return done.returncode, done.stdout.strip(), done.stderr.strip()


@pytest.mark.parametrize(
    ("script", "state"), [("exit 0", "COMPLETED"), ("exit 3", "FAILED")], ids=["good", "bad"]
)
def test_a_job_runs_and_the_accounting_knows_how_it_ended(cluster, script, state):
    assert final_state(cluster, submit(cluster, script)) == state


def test_a_job_that_takes_more_memory_than_it_asked_for_is_ended(cluster):
    greedy = 'python3 -c "block = bytearray(300_000_000); input()"'

    assert final_state(cluster, submit(cluster, greedy, "--mem=50")) == "OUT_OF_MEMORY"


def test_a_job_on_two_nodes_with_gpus_runs(cluster):
    job = submit(cluster, "srun hostname", "--partition=batch", "--nodes=2")
    with_gpus = submit(cluster, "test -n $CUDA_VISIBLE_DEVICES", "--gres=gpu:2")

    assert [final_state(cluster, each) for each in (job, with_gpus)] == ["COMPLETED"] * 2


def test_the_second_user_may_submit_but_not_cancel_for_others(cluster):
    held = submit(cluster, "true", "--hold")
    status, job, _ = as_user(cluster, "sbatch", "--parsable", "--account=proj2", "--wrap=true")

    assert (status, final_state(cluster, job)) == (0, "COMPLETED")
    assert "permission denied" in as_user(cluster, "scancel", held)[2]
    cluster.run("scancel", held)


def test_pbs_commands_drive_the_same_jobs(cluster):
    def pbs(*command, script=""):
        path = f"{cluster.pbs_commands}:{os.environ['PATH']}"
        return subprocess.run(
            command, env={**os.environ, **cluster.environment, "PATH": path}, cwd=cluster.jobs,
            input=script, capture_output=True, text=True, timeout=30,
        )  # fmt: skip

    job = pbs("qsub", "-N", "hello", script="#PBS -l walltime=00:01:00\necho $PBS_JOBID").stdout
    final_state(cluster, job.partition(".")[0])
    output = next(cluster.jobs.glob("hello.o*"))

    assert output.read_text() == job
    assert "job_state = F" in pbs("qstat", "-x", "-f", job.strip()).stdout
    assert pbs("qstat", "-f", job.strip()).returncode == 35
    assert pbs("qdel", "999999").returncode == 153
