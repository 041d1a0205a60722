"""Write the script that a scheduler runs, which starts that of `orbit_psij.files`."""

import os
import shlex
from pathlib import Path

from .batch_options import Dialect
from .files import JobFiles
from .models import JobSpec

_OURS = ("LC_ALL", "SLURM_TIME_FORMAT")
"""Variables under which the scheduler's commands run, which the job would inherit."""


def script_for(
    spec: JobSpec,
    files: JobFiles,
    *,
    dialect: Dialect,
    wrapper: Path,
    job_input: Path,
    launch: tuple[str, list[str]],
) -> str:
    """Return the script of a job; ``launch`` is how its command is started, and the command.

    It does nothing without its own file: a job whose submission was given up never runs.
    """
    mode, command = launch
    base = shlex.quote(str(files.base))
    head = [
        "#!/bin/sh",
        f"[ -e {base}.job ] || exit 125",
        f"base={base} input={shlex.quote(str(job_input))}",
        f'place="{dialect.id_expression}"',
        *(_restored(spec) if spec.inherit_environment else ()),
        *(f"export {name}={shlex.quote(value)}" for name, value in spec.environment.items()),
    ]
    if spec.count:
        before, marker, after = str(job_input).partition("{array_index}")
        number = f"export ORBIT_ARRAY_INDEX=${dialect.index_variable}"
        head += [number, 'base="${base}_$ORBIT_ARRAY_INDEX"']
        if marker:
            head.append(f'input={shlex.quote(before)}"$ORBIT_ARRAY_INDEX"{shlex.quote(after)}')
    if mode == "launcher":
        head += _node_file(spec, dialect)
    directory = spec.directory or str(Path.home())
    run = f'exec /bin/sh {shlex.quote(str(wrapper))} "$base" "$place" {mode} "$input"'
    tail = [f"cd {shlex.quote(directory)} || exit 125", f"{run} {shlex.join(command)}", ""]
    return "\n".join([*head, *tail])


def _restored(spec: JobSpec) -> list[str]:
    found = {name: os.environ.get(name) for name in _OURS if name not in spec.environment}
    return [
        f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}"
        for name, value in found.items()
    ]


def _node_file(spec: JobSpec, dialect: Dialect) -> list[str]:
    """Write what PSI/J's launchers read: a line for each process with its node."""
    resources = spec.resources
    per_node = resources.processes_per_node or max(
        1, (resources.process_count or 1) // (resources.node_count or 1)
    )
    lines = f'sort -u | while read -r node; do yes "$node" | head -n {per_node}; done'
    return [
        'export PSIJ_NODEFILE="$base.nodes"',
        f'{dialect.nodes_command} | {lines} >"$PSIJ_NODEFILE"',
    ]
