from pathlib import Path
from typing import Any

import pytest
from orbit_psij.batch_options import PbsDialect, SlurmDialect, Ticket, read_native_id
from orbit_psij.models import JobAttributes, JobResources, JobSpec

from orbit_core.batch import AuroraPbs, PbsPro, SchedulerFailed, Slurm

HOME = str(Path.home())
TICKET = Ticket(Path("/s/1%.job"), Path("/s/1%.batch"), [], [])
FULL = JobSpec(
    "/bin/date",
    directory="/work dir",
    name="a name\u00e9",
    attributes=JobAttributes(90061, "debug", "proj", None),
    resources=JobResources(2, 4, 2, 3, 1, None, True, 3 * 1024**3 + 1),
    custom_attributes={"slurm.qos": "high", "SLURM.constraint": "gpu&a100", "pbs.M": "me@here"},
)


def test_sbatch_is_told_everything_as_options() -> None:
    command = SlurmDialect().submission(FULL, TICKET, {})
    assert command == [
        "sbatch",
        "--parsable",
        "--no-requeue",
        "--open-mode=append",
        "--output=/s/1%%.batch",
        "--job-name=a name\u00e9",
        "--chdir=/work dir",
        "--export=ALL",
        "--partition=debug",
        "--account=proj",
        "--nodes=2",
        "--ntasks=4",
        "--ntasks-per-node=2",
        "--cpus-per-task=3",
        "--gpus-per-task=1",
        "--exclusive",
        "--time=25:01:01",
        "--mem=1572865K",
        "--qos=high",
        "--constraint=gpu&a100",
        "/s/1%.job",
    ]


def test_qsub_is_told_everything_as_options() -> None:
    command = PbsDialect().submission(FULL, TICKET, {})
    assert command == [
        *("qsub", "-r", "n", "-S", "/bin/sh", "-j", "oe", "-o", "/s/1%.batch"),
        *("-N", "a_name_"),
        *("-l", "select=2:ncpus=6:mpiprocs=2:ngpus=2:mem=1572865kb"),
        *("-l", "place=scatter:exclhost"),
        *("-l", "walltime=25:01:01"),
        *("-q", "debug", "-A", "proj", "-V", "-M", "me@here", "/s/1%.job"),
    ]


def test_what_is_not_asked_for_is_left_to_the_scheduler() -> None:
    spec = JobSpec("date", inherit_environment=False)
    slurm = SlurmDialect().submission(spec, TICKET, {})
    assert slurm[5:-1] == ["--job-name=date", f"--chdir={HOME}", "--export=NONE"]
    pbs = PbsDialect().submission(spec, TICKET, {})
    assert pbs[9:-1] == ["-N", "date", "-l", "select=1:ncpus=1:mpiprocs=1", "-l", "place=scatter"]


def test_arrays_dependencies_reservations_and_flags() -> None:
    ticket = Ticket(Path("/s/job"), Path("/s/log"), ["1", "2"], ["3"])
    spec = JobSpec(
        "_date",
        count=3,
        attributes=JobAttributes(reservation_id="R1", queue_name="debug"),
        custom_attributes={"slurm.hold": True, "slurm.x": False, "pbs.h": True, "pbs.m": False},
    )
    slurm = SlurmDialect().submission(spec, ticket, {})
    assert slurm[-7:-1] == [
        "--partition=debug",
        "--reservation=R1",
        "--array=0-2",
        "--dependency=afterok:1:2,afterany:3",
        "--kill-on-invalid-dep=yes",
        "--hold",
    ]
    pbs = PbsDialect().submission(spec, ticket, {})
    assert pbs[-9:-1] == [
        *("-q", "R1", "-J", "0-2", "-W", "depend=afterok:1:2,afterany:3", "-V", "-h")
    ]
    assert pbs[pbs.index("-N") + 1] == "j_date"


def test_what_a_site_needs_is_under_what_the_job_says() -> None:
    site = AuroraPbs().default_custom_attributes()
    command = PbsDialect().submission(JobSpec("date"), TICKET, site)
    assert command[-3:-1] == ["-l", "filesystems=home:flare"]
    own = JobSpec("date", custom_attributes={"pbs.l": "select=4:ncpus=8,place=pack"})
    command = PbsDialect().submission(own, TICKET, site)
    assert command.count("-l") == 1
    assert "select=4:ncpus=8,place=pack" in command


@pytest.mark.parametrize("name", ["output", "o", "outp", "wrap", "array", "no-requeue", "exp"])
def test_options_that_are_orbits_own_are_refused_also_abbreviated(name: str) -> None:
    assert SlurmDialect().faults(name) == "cannot be given: ORBIT sets it"


@pytest.mark.parametrize("name", ["qos", "constraint", "gres", "comment", "wait-all-nodes"])
def test_other_options_of_sbatch_are_taken(name: str) -> None:
    assert SlurmDialect().faults(name) is None


def test_options_of_qsub_are_one_letter_and_not_orbits_own() -> None:
    assert [PbsDialect().faults(name) for name in ("l", "o", "select")] == [
        None,
        "cannot be given: ORBIT sets it",
        "is no option of qsub, which is one letter",
    ]


@pytest.mark.parametrize(
    ("dialect", "system", "printed", "native_id", "element"),
    [
        (SlurmDialect(), Slurm(), "12;cluster\n", "12", "12_4"),
        (PbsDialect(), PbsPro(), "12[].server.site\n", "12[].server.site", "12[4].server.site"),
    ],
    ids=["slurm", "pbs"],
)
def test_ids_of_jobs_and_of_their_elements(
    dialect: Any, system: Any, printed: str, native_id: str, element: str
) -> None:
    assert read_native_id(dialect, system, printed) == native_id
    assert dialect.element(native_id, 4) == element
    with pytest.raises(SchedulerFailed, match="did not tell its id"):
        read_native_id(dialect, system, "Welcome!\n")
