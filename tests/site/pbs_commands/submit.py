"""Be qsub: directives and options become a batch script of SLURM."""

import argparse
import os
import re
import shlex
import sys
from pathlib import Path

from notes import note
from slurm import SERVER, run


def qsub(arguments):
    """Submit the script that is named, or that stands on standard input, and print its id."""
    parser = _parser()
    wanted = parser.parse_args(arguments)
    body = Path(wanted.script).read_text() if wanted.script else sys.stdin.read()
    parser.parse_args(_directives(body), wanted)
    parser.parse_args(arguments, wanted)
    resources = dict(part.partition("=")[::2] for item in wanted.l for part in item.split(","))
    name = wanted.N or (Path(wanted.script).name if wanted.script else "STDIN")
    told = {
        "select": resources.get("select", "1:ncpus=1"),
        "directory": str(Path.cwd()),
        "variables": _variables(wanted.v),
        "arguments": " ".join(arguments)[:200],
    }
    command = [
        "sbatch", "--parsable", f"--job-name={name}", f"--comment={note(told)}",
        f"--chdir={Path.home()}", *_outputs(wanted, name), *_resources(resources),
        *_options(wanted),
    ]  # fmt: skip
    script = _script(body, name, told, wanted.A)
    status, output, complaint = run(*command, script=script)
    if status:
        return _refuse(complaint)
    print(f"{output.strip().split(';')[0]}{'[]' * bool(wanted.J)}.{SERVER}")
    return 0


def _parser():
    parser = argparse.ArgumentParser("qsub", add_help=False)
    for letter in "NqAoejJWvaSrmp":
        parser.add_argument(f"-{letter}")
    parser.add_argument("-l", action="append", default=[])
    parser.add_argument("-h", action="store_true")
    parser.add_argument("-V", action="store_true")
    parser.add_argument("script", nargs="?")
    return parser


def _directives(body):
    """Return the words of the ``#PBS`` lines before the first command."""
    found = []
    for line in body.splitlines():
        if line.startswith("#PBS"):
            found += shlex.split(line.removeprefix("#PBS"))
        elif line.strip() and not line.startswith("#"):
            break
    return found


def _variables(listed):
    names = listed.split(",") if listed else []
    pairs = (name.partition("=") for name in names)
    return {name: value if equals else os.environ.get(name, "") for name, equals, value in pairs}


def _resources(resources):
    wanted = resources.get("select") or resources.get("nodes", "1").replace("ppn=", "ncpus=")
    chunks = [chunk.split(":") for chunk in wanted.split("+")]
    nodes = sum(int(chunk[0]) if chunk[0].isdigit() else 1 for chunk in chunks)
    asked = dict(item.partition("=")[::2] for item in chunks[-1][1:])
    yield f"--nodes={nodes}"
    yield f"--ntasks-per-node={asked.get('ncpus', resources.get('ncpus', 1))}"
    if "walltime" in resources:
        yield f"--time={resources['walltime']}"
    if "ngpus" in asked:
        yield f"--gres=gpu:{asked['ngpus']}"
    if memory := re.match(r"(\d+)([kmg]?)b?", asked.get("mem", "")):
        yield f"--mem={memory[1]}{memory[2].upper()}"


def _options(wanted):
    yield "--export=ALL" if wanted.V else "--export=NONE"
    for option, value in (("partition", wanted.q), ("account", wanted.A), ("array", wanted.J),
                          ("begin", wanted.a)):  # fmt: skip
        if value:
            yield f"--{option}={value}"
    if wanted.h:
        yield "--hold"
    if wanted.W and "depend=" in wanted.W:
        depend = wanted.W.partition("depend=")[2]
        yield f"--dependency={re.sub(r'[.][A-Za-z][A-Za-z0-9.-]*', '', depend)}"


def _outputs(wanted, name):
    """Yield where the output goes: ``NAME.oNUMBER`` in the submission directory, unless named."""
    yield f"--output={_path(wanted.o) or Path.cwd() / f'{name}.o%j'}"
    if wanted.j != "oe":
        yield f"--error={_path(wanted.e) or Path.cwd() / f'{name}.e%j'}"


def _path(named):
    """Return a path without the host that may stand before it."""
    return named and re.sub(r"^[^/:]*:", "", named)


def _script(body, name, told, account):
    """Return the script that SLURM runs: PBS's variables, none of SLURM's, then the user's own."""
    known = {
        **told["variables"], "PBS_O_WORKDIR": told["directory"], "PBS_O_HOST": os.uname().nodename,
        "PBS_O_HOME": str(Path.home()), "PBS_JOBNAME": name, "PBS_ENVIRONMENT": "PBS_BATCH",
        "PBS_ACCOUNT": account or "", "SLURM_CONF": os.environ.get("SLURM_CONF", ""),
        "PATH": os.environ["PATH"], "HOME": str(Path.home()),
    }  # fmt: skip
    exports = "\n".join(f"export {key}={shlex.quote(value)}" for key, value in known.items())
    return f"""#!/bin/bash
{exports}
export PBS_ARRAY_INDEX=$SLURM_ARRAY_TASK_ID
number=$SLURM_JOB_ID
[ -z "$SLURM_ARRAY_JOB_ID" ] || number="$SLURM_ARRAY_JOB_ID[$SLURM_ARRAY_TASK_ID]"
export PBS_JOBID=$number.{SERVER} PBS_QUEUE=$SLURM_JOB_PARTITION NCPUS=$SLURM_CPUS_ON_NODE
export PBS_NODEFILE=/tmp/pbs_nodes.$PBS_JOBID
for host in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
    for slot in $(seq "$NCPUS"); do echo "$host"; done
done >"$PBS_NODEFILE"
for name in ${{!SLURM*}}; do [ "$name" = SLURM_CONF ] || unset "$name"; done
cd "$HOME" || exit 1
bash -c {shlex.quote(body)}
status=$?
rm -f "$PBS_NODEFILE"
exit $status
"""


def _refuse(complaint):
    """Print the refusal as PBS words it."""
    if "partition" in complaint.lower() and "account" not in complaint.lower():
        print("qsub: Unknown queue", file=sys.stderr)
        return 170
    print(f"qsub: {complaint.strip().rpartition('failed: ')[2]}", file=sys.stderr)
    return 188
