"""Make PSI/J's jobs out of ours."""

import shutil
from datetime import timedelta
from pathlib import Path

import attrs
import psij

from .files import JobFiles, StreamName
from .models import JobSpec


class TrackedJob(psij.Job):
    """Be a PSI/J job that knows where its marks and output go."""

    def __init__(self, spec: psij.JobSpec, job_id: str, base: Path, wrapper: Path) -> None:
        """Carry our id, which PSI/J's own does not replace: it lives as long as the process."""
        super().__init__(spec)
        self.job_id = job_id
        self.base = base
        self.wrapper = wrapper
        self.input = spec.stdin_path
        self.inner_launcher: str | None = None
        self.prefix: list[str] = []


def make_job(job_id: str, spec: JobSpec, files: JobFiles, wrapper: Path) -> TrackedJob:
    """Prepare a job's files and return what PSI/J is to run.

    It blocks on the disk. Raises OSError, psij.InvalidJobException.
    """
    job_input = files.prepare(spec.stdin, links_of(spec))
    theirs = translated(spec)
    theirs.stdin_path = Path(spec.stdin_path) if spec.stdin_path else job_input
    theirs.stdout_path = files.stream("stdout")
    theirs.stderr_path = files.stream("stderr")
    theirs.launcher = "orbit"
    job = TrackedJob(theirs, job_id, files.base, wrapper)
    if spec.launcher not in (None, "single") or spec.pre_launch or spec.post_launch:
        job.inner_launcher = spec.launcher or "single"
    return job


def leave_session(job: TrackedJob) -> None:
    """Have a local job start in a session of its own, which outlives this process and its terminal.

    Raises OSError where there is no setsid(1).
    """
    command = shutil.which("setsid")
    if command is None:
        raise FileNotFoundError("there is no command setsid here: install util-linux")
    job.prefix = [command]


def translated(spec: JobSpec) -> psij.JobSpec:
    """Return PSI/J's own specification of a job. Raises psij.InvalidJobException."""
    attributes = spec.attributes
    theirs = psij.JobAttributes(
        queue_name=attributes.queue_name,
        account=attributes.account,
        reservation_id=attributes.reservation_id,
        custom_attributes=dict(spec.custom_attributes) or None,
    )
    if attributes.duration is not None:
        theirs.duration = timedelta(seconds=attributes.duration)
    return psij.JobSpec(
        executable=spec.executable,
        arguments=spec.arguments,
        directory=spec.directory,
        name=spec.name,
        inherit_environment=spec.inherit_environment,
        environment=dict(spec.environment) or None,
        resources=psij.ResourceSpecV1(
            **attrs.asdict(spec.resources, filter=attrs.filters.exclude("gpus_per_node"))
        ),
        attributes=theirs,
        pre_launch=spec.pre_launch,
        post_launch=spec.post_launch,
    )


def links_of(spec: JobSpec, index: int | str = "") -> dict[StreamName, Path]:
    """Return the files in which a job, or an element of a job array, is to leave its output."""
    if spec.count and index == "":
        return {}
    directory = Path(spec.directory or ".").absolute()
    found: dict[StreamName, Path] = {}
    if spec.stdout_path is not None:
        found["stdout"] = directory / indexed(spec.stdout_path, index)
    if spec.stderr_path is not None:
        found["stderr"] = directory / indexed(spec.stderr_path, index)
    return found


def indexed(path: str, index: int | str) -> str:
    """Return a path with an element's number in it."""
    return path.replace("{array_index}", str(index))
