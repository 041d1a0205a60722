import pytest

from orbit_core.batch import (
    AllocationUnknown,
    AuroraPbs,
    Failure,
    FailureCause,
    InvalidJobId,
    JobAllocation,
    JobForbidden,
    JobState,
    PbsPro,
    SchedulerFailed,
    SchedulerUnavailable,
    UnknownBatchJob,
)  # fmt: skip

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]


def job(state, job_id="7.srv", **attributes):
    lines = [f"Job Id: {job_id}", f"    job_state = {state}"]
    lines += [f"    {name} = {value}" for name, value in attributes.items()]
    return "\n".join([*lines, "", ""])


@pytest.fixture
def pbs():
    return PbsPro()


@pytest.mark.parametrize(
    ("letters", "state"),
    [("QWT", JobState.PENDING), ("RBE", JobState.RUNNING), ("HSMU", JobState.HELD)],
)
async def test_a_letter_is_a_state(commands, pbs, letters, state):
    for letter in letters:
        commands.answer("qstat", job(letter, exec_host="n1/0*4+n2/0*4"))

        report = await pbs.report("7.srv")

        assert (report.state, report.native_state) == (state, letter)
    assert commands.calls()[0] == ["qstat", "-x", "-f", "7.srv"]
    assert await pbs.job_nodes("7.srv") == ["n1", "n2"]


@pytest.mark.parametrize(
    ("status", "failure", "words"),
    [
        (3, Failure(FailureCause.EXIT_CODE, exit_code=3), "exit code 3"),
        (267, Failure(FailureCause.SIGNAL, signal=11), "killed by SIGSEGV"),
        (271, Failure(FailureCause.SIGNAL, signal=15), "killed by SIGTERM"),
        (-29, Failure(FailureCause.WALLTIME), "ran longer than its walltime"),
        (-27, Failure(FailureCause.OUT_OF_MEMORY), "out of memory"),
        (-3, Failure(FailureCause.OTHER, detail="PBS ended it with -3: "), "failed: PBS ended"),
    ],
)
async def test_a_finished_job_tells_why_it_failed(commands, pbs, status, failure, words):
    commands.answer("qstat", job("F", Exit_status=status, substate=92))

    report = await pbs.report("7.srv")

    assert (report.state, report.failure) == (JobState.FAILED, failure)
    assert str(report.failure).startswith(words)


async def test_a_finished_job_without_fault_is_done(commands, pbs):
    commands.answer("qstat", job("F", Exit_status=0))

    report = await pbs.report("7")

    assert (report.state, report.exit_code, report.failure) == (JobState.DONE, 0, None)


@pytest.mark.parametrize(
    "attributes",
    [{"substate": 91}, {"comment": "Job run at Mon on (n1:ncpus=1) and terminated"}],
    ids=["substate", "comment"],
)
async def test_a_deleted_job_is_cancelled(commands, pbs, attributes):
    commands.answer("qstat", job("F", Exit_status=271, **attributes))

    report = await pbs.report("7")

    assert (report.state, str(report.failure)) == (JobState.CANCELLED, "cancelled")


async def test_a_job_that_was_cancelled_here_is_cancelled(commands, pbs):
    commands.answer("qstat", job("R"))
    commands.answer("qdel")
    await pbs.cancel("7.srv")
    commands.answer("qstat", job("F", Exit_status=271))

    assert commands.calls("qdel") == [["qdel", "7.srv"]]
    assert await pbs.job_state("7.srv") is JobState.CANCELLED


async def test_a_job_that_nobody_knows_is_unknown(commands, pbs):
    commands.answer("qstat", stderr="qstat: Unknown Job Id 7.srv\n", status=153)

    assert await pbs.job_state("7.srv") is JobState.UNKNOWN
    with pytest.raises(UnknownBatchJob, match=r"pbs knows no job 7\.srv"):
        await pbs.cancel("7.srv")


async def test_an_array_is_the_sum_of_its_elements(commands, pbs):
    rows = [job("R", "7[1].srv"), job("F", "7[2].srv", Exit_status=1), job("R", "71[1].srv")]
    commands.answer("qstat", "".join(rows))

    reports = await pbs.reports(["7[].srv", "7[2].srv"])

    assert reports["7[].srv"].state is JobState.RUNNING
    assert reports["7[2].srv"].exit_code == 1


@pytest.mark.parametrize(
    ("complaint", "error"),
    [
        ("qstat: cannot connect to server srv (errno=15010)", SchedulerUnavailable),
        ("qstat: something else", SchedulerFailed),
    ],
)
async def test_a_server_that_does_not_serve_is_told(commands, pbs, complaint, error):
    commands.answer("qstat", stderr=complaint, status=1)

    with pytest.raises(error, match="qstat: "):
        await pbs.report("7")


@pytest.mark.parametrize(
    ("status", "error"), [(159, JobForbidden), (1, SchedulerFailed)], ids=["forbidden", "failed"]
)
async def test_a_refused_cancel_is_told(commands, pbs, status, error):
    commands.answer("qstat", job("R"))
    commands.answer("qdel", stderr="qdel: Unauthorized Request  7.srv", status=status)

    with pytest.raises(error, match="Unauthorized Request"):
        await pbs.cancel("7.srv")


async def test_a_job_that_ends_meanwhile_needs_no_cancel(commands, pbs):
    commands.answer("qstat", job("R"))
    commands.answer("qdel", stderr="qdel: Job has finished 7.srv", status=35)

    await pbs.cancel("7.srv")


@pytest.mark.parametrize("job_id", ["-x", "7;rm", "", "7.", "7 8", "all", "7[1", "7.srv\n", None])
async def test_what_is_no_job_id_never_reaches_a_command_line(commands, pbs, job_id):
    for ask in (pbs.report, pbs.cancel):
        with pytest.raises(InvalidJobId, match="is not a job id of pbs"):
            await ask(job_id)
    assert commands.calls() == []


@pytest.fixture
def in_job(monkeypatch, tmp_path):
    nodes = tmp_path / "nodes"
    nodes.write_text("n1.site\nn1.site\nn2.site\n")
    values = {"PBS_JOBID": "7.srv", "PBS_NODEFILE": str(nodes), "PBS_QUEUE": "prod",
              "PBS_ACCOUNT": "", "PBS_JOBNAME": "hello"}  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)


RECORD = job("R", queue="other", Account_Name="proj1", **{
    "Resource_List.nodect": 3, "Resource_List.select": "2:ncpus=4:ngpus=1",
    "Resource_List.walltime": "48:00:00"})  # fmt: skip


async def test_the_allocation_comes_from_the_environment_and_the_server(commands, pbs, in_job):
    commands.answer("qstat", RECORD)

    assert await pbs.job_allocation() == JobAllocation(
        "7.srv", "prod", 2, "n1,n2", 4, 1, "proj1", "hello", 172800
    )


async def test_without_the_server_the_environment_must_do(commands, pbs, in_job):
    commands.answer("qstat", stderr="qstat: cannot connect to server srv", status=1)

    assert await pbs.job_allocation() == JobAllocation(
        "7.srv", "prod", 2, "n1,n2", None, None, None, "hello", None
    )


async def test_without_a_node_file_the_server_tells_the_number(commands, pbs, in_job, monkeypatch):
    monkeypatch.setenv("PBS_NODEFILE", "/no/such/file")
    commands.answer("qstat", RECORD)

    found = await pbs.job_allocation()

    assert (found.n_nodes, found.nodelist) == (3, None)


async def test_an_allocation_that_nobody_can_tell_is_an_error(commands, pbs, in_job, monkeypatch):
    monkeypatch.delenv("PBS_NODEFILE")
    commands.answer("qstat")

    with pytest.raises(AllocationUnknown, match="PBS_NODEFILE cannot be read"):
        await pbs.job_allocation()


async def test_outside_of_a_job_there_is_no_allocation(pbs, commands):
    assert await pbs.job_allocation() is None
    assert await pbs.nodelist() == []


def test_jobs_on_aurora_must_name_file_systems():
    assert AuroraPbs().default_custom_attributes() == {"pbs.l": "filesystems=home:flare"}
    assert AuroraPbs().family == "pbs"
