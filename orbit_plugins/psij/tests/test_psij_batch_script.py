import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from orbit_psij.batch_options import SlurmDialect
from orbit_psij.batch_script import script_for
from orbit_psij.files import JobFiles
from orbit_psij.models import JobResources, JobSpec

TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20)
ECHO = """printf '%s\\0' "$@" "$V" "$PWD" "$LC_ALL" "$ORBIT_ARRAY_INDEX" """


def run_script(
    directory: Path, spec: JobSpec, job_input: str = "/in put", **variables: str
) -> list[str]:
    """Run the script that SLURM would, and return what it starts and in which surroundings."""
    files, wrapper = JobFiles(directory / "a job"), directory / "wrapper"
    wrapper.write_text(ECHO)
    text = script_for(
        spec,
        files,
        dialect=SlurmDialect(),
        wrapper=wrapper,
        job_input=Path(job_input),
        launch=("direct", [spec.executable, *spec.arguments]),
    )
    files.path("job").write_text(text)
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "SLURM_JOB_ID": "7", **variables}
    command = ["sh", str(files.path("job"))]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.decode().split("\0")[:-1]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(arguments=st.lists(TEXT, max_size=3), value=TEXT, name=st.text("abc '\"$`\\;&", min_size=1))
def test_whatever_a_job_says_arrives_as_it_is(
    tmp_path: Path, arguments: list[str], value: str, name: str
) -> None:
    directory = tmp_path / name
    directory.mkdir(exist_ok=True)
    spec = JobSpec("/bin/date", arguments, str(directory), environment={"V": value})
    found = run_script(tmp_path, spec)
    assert found[:4] == [f"{tmp_path}/a job", "7", "direct", "/in put"]
    assert found[4:-4] == ["/bin/date", *arguments]
    assert found[-4:-2] == [value, str(directory)]


@pytest.mark.parametrize(
    ("inherits", "own", "expected"),
    [(True, None, "de_DE"), (True, "C.utf8", "C.utf8"), (False, None, "C")],
)
def test_a_job_does_not_see_the_locale_of_the_schedulers_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inherits: bool, own: str | None, expected: str
) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE")
    environment = {"LC_ALL": own} if own else {}
    spec = JobSpec("date", inherit_environment=inherits, environment=environment)
    assert run_script(tmp_path, spec)[-2] == expected


def test_an_element_of_an_array_has_its_own_files(tmp_path: Path) -> None:
    spec = JobSpec("date", count=8)
    task = {"SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "3"}
    found = run_script(tmp_path, spec, "/in put.{array_index}'", **task)
    assert (found[:4], found[-1]) == ([f"{tmp_path}/a job_3", "6", "direct", "/in put.3'"], "3")


def test_a_job_without_its_script_does_nothing(tmp_path: Path) -> None:
    run_script(tmp_path, JobSpec("date"))
    script = tmp_path / "a job.job"
    script.rename(tmp_path / "moved")
    done = subprocess.run(["sh", str(tmp_path / "moved")], capture_output=True)
    assert (done.returncode, done.stdout) == (125, b"")


@pytest.mark.parametrize(
    ("resources", "lines"),
    [
        (JobResources(), 1),
        (JobResources(process_count=6, node_count=2), 3),
        (JobResources(2, 4, 2), 2),
    ],
)
def test_a_launcher_finds_a_line_for_each_process(
    tmp_path: Path, resources: JobResources, lines: int
) -> None:
    (tmp_path / "wrapper").touch()
    files = JobFiles(tmp_path / "job")
    files.path("job").touch()
    text = script_for(
        JobSpec("date", resources=resources),
        files,
        dialect=SlurmDialect(),
        wrapper=tmp_path / "wrapper",
        job_input=Path("/dev/null"),
        launch=("launcher", ["date"]),
    )
    files.path("job").write_text(text.replace("scontrol show hostnames", "printf 'a\\nb\\n'"))
    subprocess.run(["sh", str(files.path("job"))], check=True)
    assert files.path("nodes").read_text() == lines * "a\n" + lines * "b\n"
