"""Prepare the folder in which a child finds everything: its start, its token, what its parent says.

It is on the file system that parent and child share, and nobody else may look into it.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs

from orbit_core.config import write_private
from orbit_psij.models import JobSpec

from .request import OURS

_UNSET = (
    "ORBIT_TOKEN", "ORBIT_TOKEN_FILE", "RADICAL_ORBIT_BRIDGE_TOKEN", "RADICAL_ORBIT_BROKER_TOKEN",
    "ORBIT_URL", "RADICAL_ORBIT_BRIDGE_URL", "RADICAL_ORBIT_BROKER_URL",
)  # fmt: skip


@attrs.frozen
class ChildFolder:
    """Know the files of one child. Every method blocks on the disk."""

    path: Path

    @property
    def script(self) -> Path:
        """Return the script that a job runs."""
        return self.path / "run-child.sh"

    @property
    def token_file(self) -> Path:
        """Return the file of the child's token."""
        return self.path / "token"

    def prepare(self, token: str, executable: str, setup: Sequence[str], cert: Path | None) -> None:
        """Make the folder and what a child needs to start. Raises OSError."""
        self.path.mkdir(mode=0o700, parents=True)
        write_private(self.token_file, token)
        write_private(self.script, _script(executable, setup))
        if cert is not None:
            shutil.copyfile(cert, self.path / "bridge.pem")

    def token(self) -> str | None:
        """Return the child's token, None if the folder is gone."""
        try:
            return self.token_file.read_text().strip()
        except OSError:
            return None

    def remove(self) -> None:
        """Delete everything; what a dying process still holds is left to the next attempt."""
        shutil.rmtree(self.path, ignore_errors=True)

    def job_spec(
        self, spec: JobSpec, name: str, url: str, tunnel: str, *, login: str, cert: Path | None
    ) -> JobSpec:
        """Return the job that runs the child. Nothing in it is secret: schedulers show it all."""
        trust = [] if cert is None else ["--cert", str(self.path / "bridge.pem")]
        arguments = [
            str(self.script), "--role", "endpoint", "--name", name, "--url", url,
            "--token-file", str(self.token_file), "--state-dir", str(self.path / "state"),
            "--tunnel", tunnel, "--tunnel-via", login, "--tunnel-dir", str(self.path),
            *trust, *spec.arguments,
        ]  # fmt: skip
        return attrs.evolve(
            spec, executable="/bin/sh", arguments=arguments, name=spec.name or f"orbit-{name}"
        )


def _script(executable: str, setup: Sequence[str]) -> str:
    """Return the launch script: this Python, its virtual environment, the set-up, the endpoint.

    srun(1) within the job shall see what the set-up makes: SLURM_EXPORT_ENV.
    """
    python = shlex.quote(sys.executable)
    folder = shlex.quote(os.path.dirname(sys.executable))
    is_ours = Path(executable).name == OURS
    run = f"{python} -m orbit_core.serve" if is_ours else shlex.quote(executable)
    venv = (
        [f"export VIRTUAL_ENV={shlex.quote(sys.prefix)}"] if sys.prefix != sys.base_prefix else []
    )
    return "\n".join(
        [
            "#!/bin/sh",
            "umask 077",
            f"unset {' '.join(_UNSET)}",
            f"export PATH={folder}:$PATH PYTHONUNBUFFERED=1",
            *venv,
            '[ -z "$SLURM_JOB_ID" ] || export SLURM_EXPORT_ENV=ALL',
            *setup,
            f'exec {run} "$@"',
            "",
        ]
    )
