"""Put PBS commands on ``PATH`` that drive the cluster's SLURM: no PBS server is packaged."""

import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

COMMANDS = ("qsub", "qstat", "qdel", "qhold", "qrls", "pbsnodes")

_SOURCE = Path(__file__).parent / "pbs_commands"


def install_commands(directory: Path, environment: Mapping[str, str]) -> None:
    """Write the commands into ``directory / "bin"``, from where every user may run them.

    They find the cluster by ``environment`` also where SLURM's own commands do not.
    """
    home, folder = directory / "emulation", directory / "bin"
    shutil.copytree(_SOURCE, home, ignore=shutil.ignore_patterns("__pycache__"))
    folder.mkdir()
    given = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in environment.items())
    for name in COMMANDS:
        path = folder / name
        path.write_text(f'#!/bin/sh\n{given}exec {_python()} {home} {name} "$@"\n')
        path.chmod(0o755)


def _python() -> str:
    """Return an interpreter that the second user may run too."""
    return shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
