import pwd

import pytest

from orbit_core.batch import (
    AllocationUnknown,
    Failure,
    FailureCause,
    InvalidJobId,
    JobAllocation,
    JobForbidden,
    JobState,
    SchedulerFailed,
    SchedulerUnavailable,
    Slurm,
    UnknownBatchJob,
)  # fmt: skip
from orbit_core.batch.slurm import STATES

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]

SLURM = Slurm()
DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
NO_JOB = "slurm_load_jobs error: Invalid job id specified\n"


def controller(job, state, ended="0:0", reason="None"):
    return (
        f"JobId={job} JobName=a b JobState={state} Reason={reason} ExitCode={ended} NodeList=n1\n"
    )


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("PENDING", "Priority", JobState.PENDING),
        ("PENDING", "JobHeldUser", JobState.HELD),
        ("RUNNING", "None", JobState.RUNNING),
        ("COMPLETING", "None", JobState.RUNNING),
        ("SUSPENDED", "None", JobState.HELD),
        ("A_STATE_OF_TOMORROW", "None", JobState.UNKNOWN),
    ],
)
async def test_a_job_in_the_queue_costs_one_command(commands, state, reason, expected):
    commands.answer("squeue", f"7|{state}|{reason}|node[01-02]\n")

    report = await SLURM.report("7")

    assert (report.state, report.native_state, report.nodes) == (expected, state, "node[01-02]")
    assert commands.calls() == [
        ["squeue", "--jobs=7", "--states=all", "--array", "--noheader", "--format=%i|%T|%r|%N"]
    ]


@pytest.mark.parametrize(
    ("state", "ended", "failure", "words"),
    [
        ("FAILED", "3:0", Failure(FailureCause.EXIT_CODE, exit_code=3), "exit code 3"),
        ("FAILED", "0:9", Failure(FailureCause.SIGNAL, signal=9), "killed by SIGKILL"),
        ("FAILED", "0:99", Failure(FailureCause.SIGNAL, signal=99), "killed by signal 99"),
        ("FAILED", "0:0", Failure(FailureCause.OTHER), "failed"),
        ("TIMEOUT", "0:15", Failure(FailureCause.WALLTIME), "ran longer than its walltime"),
        ("OUT_OF_MEMORY", "0:125", Failure(FailureCause.OUT_OF_MEMORY), "out of memory"),
        ("NODE_FAIL", "0:0", Failure(FailureCause.NODE_FAILURE), "a node failed"),
        ("PREEMPTED", "0:15", Failure(FailureCause.PREEMPTION), "preempted by another job"),
        ("DEADLINE", "0:15", Failure(FailureCause.DEADLINE), "not over by its deadline"),
        ("CANCELLED", "0:0", Failure(FailureCause.CANCELLED), "cancelled"),
        (
            "CANCELLED by 0", "0:0",
            Failure(FailureCause.CANCELLED, cancelled_by=pwd.getpwuid(0).pw_name),
            "cancelled by root",
        ),
        (
            "CANCELLED by 987654", "0:0",
            Failure(FailureCause.CANCELLED, cancelled_by="987654"), "cancelled by 987654",
        ),
    ],
)  # fmt: skip
async def test_the_accounting_tells_why_a_job_failed(commands, state, ended, failure, words):
    commands.answer("squeue", stderr=NO_JOB, status=1)
    commands.answer("sacct", f"7|{state}|None|node01|{ended}\n")
    commands.answer("scontrol", stderr=NO_JOB, status=1)

    report = await SLURM.report("7")

    assert report.failure == failure
    assert str(report.failure) == words
    assert report.state is STATES[state.split()[0]]


async def test_a_reason_is_kept_as_the_detail(commands):
    commands.answer("squeue", "7|FAILED|JobLaunchFailure|n1\n")
    commands.answer("sacct", "7|FAILED|None|n1|0:0\n")
    commands.answer("scontrol", controller(7, "FAILED", reason="JobLaunchFailure"))

    assert str((await SLURM.report("7")).failure) == "failed: JobLaunchFailure"


async def test_a_good_end_has_its_exit_code(commands):
    commands.answer("squeue", "7|COMPLETED|None|n1\n")
    commands.answer("sacct", "7|COMPLETED|None|n1|0:0\n")

    report = await SLURM.report("7")

    assert (report.state, report.exit_code, report.failure) == (JobState.DONE, 0, None)


async def test_without_accounting_the_controller_tells_how_a_job_ended(commands):
    commands.answer("squeue", "7|FAILED|NonZeroExitCode|n1\n")
    commands.answer("sacct", stderr="Slurm accounting storage is disabled\n", status=1)
    commands.answer("scontrol", controller(7, "FAILED", "3:0", "NonZeroExitCode"))

    assert (await SLURM.report("7")).failure == Failure(FailureCause.EXIT_CODE, exit_code=3)


async def test_an_accounting_that_lags_is_not_believed(commands):
    commands.answer("squeue", "7|FAILED|NonZeroExitCode|n1\n")
    commands.answer("sacct", "7|RUNNING|None|n1|0:0\n")
    commands.answer("scontrol", controller(7, "FAILED", "3:0", "NonZeroExitCode"))

    report = await SLURM.report("7")

    assert (report.state, report.exit_code) == (JobState.FAILED, 3)


async def test_a_job_that_nobody_knows_is_unknown(commands):
    commands.answer("squeue", stderr=NO_JOB, status=1)
    commands.answer("sacct")
    commands.answer("scontrol", stderr=NO_JOB, status=1)

    assert await SLURM.job_state("7") is JobState.UNKNOWN


async def test_many_jobs_are_asked_for_in_one_command(commands):
    commands.answer("squeue", "".join(f"{job}|RUNNING|None|n1\n" for job in range(1, 301)))

    reports = await SLURM.reports(str(job) for job in range(1, 301))

    assert {report.state for report in reports.values()} == {JobState.RUNNING}
    assert len(commands.calls()) == 1


@pytest.mark.parametrize(
    ("states", "whole"),
    [
        (["COMPLETED", "RUNNING", "FAILED"], JobState.RUNNING),
        (["COMPLETED", "PENDING"], JobState.PENDING),
        (["COMPLETED", "FAILED", "CANCELLED"], JobState.FAILED),
        (["COMPLETED", "COMPLETED"], JobState.DONE),
    ],
)
async def test_an_array_has_a_state_for_each_element_and_for_the_whole(commands, states, whole):
    rows = [f"7_{index}|{state}|None|n1" for index, state in enumerate(states)]
    commands.answer("squeue", "\n".join(rows))
    commands.answer("sacct", "\n".join(f"{row}|1:0" for row in rows))
    commands.answer("scontrol")

    reports = await SLURM.reports(["7", "7_1"])

    assert reports["7"].state is whole
    assert reports["7_1"].state is STATES[states[1]]


@pytest.mark.parametrize(
    "job_id", ["--me", "1;rm", "-1", "", "0", "1 2", "7_", "1\n", "\u0667", "12345678901", None, 7]
)
async def test_what_is_no_job_id_never_reaches_a_command_line(commands, job_id):
    for ask in (SLURM.report, SLURM.cancel, SLURM.job_nodes):
        with pytest.raises(InvalidJobId, match="is not a job id of slurm"):
            await ask(job_id)
    assert commands.calls() == []


async def test_a_controller_that_is_down_makes_the_scheduler_unavailable(commands):
    commands.answer("squeue", stderr=DOWN, status=1)

    with pytest.raises(SchedulerUnavailable, match="squeue: slurm_load_jobs error: Unable"):
        await SLURM.report("7")


async def test_another_failure_is_told_in_the_words_of_the_scheduler(commands):
    commands.answer("squeue", stderr="squeue: error: out of luck\n", status=1)

    with pytest.raises(SchedulerFailed, match="out of luck"):
        await SLURM.report("7")


@pytest.mark.parametrize("text", ["", "\x00\xff|||\n", "7|RUNNING\n", "lorem ipsum\n" * 100_000])
async def test_garbage_makes_a_job_unknown(commands, text):
    for name in ("squeue", "sacct", "scontrol"):
        commands.answer(name, text)

    assert await SLURM.job_state("7") is JobState.UNKNOWN


async def test_a_job_is_cancelled_by_its_id(commands):
    commands.answer("squeue", "7|RUNNING|None|n1\n")
    commands.answer("scancel")

    await SLURM.cancel("7")

    assert commands.calls("scancel") == [["scancel", "7"]]


async def test_a_job_that_is_over_is_not_cancelled(commands):
    commands.answer("squeue", "7|COMPLETED|None|n1\n")
    commands.answer("sacct", "7|COMPLETED|None|n1|0:0\n")

    await SLURM.cancel("7")

    assert commands.calls("scancel") == []


async def test_an_unknown_job_cannot_be_cancelled(commands):
    for name in ("squeue", "sacct", "scontrol"):
        commands.answer(name)

    with pytest.raises(UnknownBatchJob, match="slurm knows no job 7"):
        await SLURM.cancel("7")


@pytest.mark.parametrize(
    ("complaint", "error"),
    [
        ("scancel: error: Kill job error on job id 7: Access/permission denied", JobForbidden),
        ("scancel: error: something else", SchedulerFailed),
    ],
)
async def test_a_refused_cancel_is_told(commands, complaint, error):
    commands.answer("squeue", "7|RUNNING|None|n1\n")
    commands.answer("scancel", stderr=complaint, status=210)

    with pytest.raises(error, match="scancel"):
        await SLURM.cancel("7")


async def test_nodes_are_spelt_out(commands):
    commands.answer("squeue", "7|RUNNING|None|n[1-2]\n")
    commands.answer("scontrol", "n1\nn2\n", to="show hostnames n[1-2]")

    assert await SLURM.job_nodes("7") == ["n1", "n2"]


async def test_a_job_without_nodes_has_none(commands):
    commands.answer("squeue", "7|PENDING|None|\n")

    assert await SLURM.job_nodes("7") == []


@pytest.fixture
def in_job(monkeypatch):
    values = {
        "SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_JOB_PARTITION": "batch",
        "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_ON_NODE": "4", "SLURM_GPUS_ON_NODE": "a100:2",
        "SLURM_JOB_ACCOUNT": "proj1", "SLURM_JOB_NAME": "hello",
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)


async def test_outside_of_a_job_there_is_no_allocation(commands):
    assert await SLURM.job_allocation() is None
    assert await SLURM.nodelist() == []
    assert not SLURM.in_allocation()


@pytest.mark.parametrize(
    ("limit", "runtime"), [("1-02:00:00", 93600), ("30:00", 1800), ("UNLIMITED", None)]
)
async def test_the_allocation_comes_from_the_environment(commands, in_job, limit, runtime):
    commands.answer("squeue", f"{limit}\n", to="--job=7")
    commands.answer("scontrol", "n1\nn2\n")

    assert await SLURM.job_allocation() == JobAllocation(
        "7", "batch", 2, "n[1-2]", 4, 2, "proj1", "hello", runtime
    )
    assert await SLURM.nodelist() == ["n1", "n2"]
    assert SLURM.in_allocation()


async def test_an_allocation_without_an_answering_scheduler_has_no_runtime(commands, in_job):
    commands.answer("squeue", stderr=DOWN, status=1)

    assert (await SLURM.job_allocation()).runtime is None


async def test_an_allocation_that_does_not_tell_its_nodes_is_an_error(in_job, monkeypatch):
    monkeypatch.delenv("SLURM_NNODES")

    with pytest.raises(AllocationUnknown, match="SLURM_NNODES is not set"):
        await SLURM.job_allocation()


async def test_another_configuration_reaches_the_commands(commands):
    commands.install("squeue", '#!/bin/sh\necho "7|RUNNING|None|$SLURM_CONF"\n')

    assert (await Slurm("/site/slurm.conf").report("7")).nodes == "/site/slurm.conf"


def test_there_is_a_state_for_every_documented_one():
    assert set(STATES.values()) == set(JobState) - {JobState.UNKNOWN}
    assert SLURM.terminal_states() == {JobState.DONE, JobState.FAILED, JobState.CANCELLED}
    assert SLURM.default_custom_attributes() == {}
