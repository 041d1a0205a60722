"""Be sbatch, squeue, scontrol and scancel of a cluster that lives in a folder.

``python fake_slurm.py FOLDER COMMAND [ARGUMENT...]``. A file ``down`` in the folder is a controller
that does not answer, and one ``slow`` an sbatch that takes the job but does not return.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "squeue", "scontrol", "scancel")


def install(folder: Path) -> Path:
    """Write the commands, and return the folder of them for ``PATH``."""
    (folder / "bin").mkdir(parents=True)
    (folder / "jobs").mkdir()
    for name in COMMANDS:
        path = folder / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -S {__file__} {folder} {name} "$@"\n')
        path.chmod(0o755)
    return folder / "bin"


def change(folder: Path, job_id: str, **changes: object) -> None:
    """Change what the cluster knows of a job."""
    path = folder / "jobs" / f"{job_id}.json"
    draft = path.with_suffix(f".{os.getpid()}")
    known = json.loads(path.read_text()) if path.exists() else {}
    draft.write_text(json.dumps({**known, **changes}))
    draft.replace(path)


def jobs(folder: Path) -> dict[str, dict[str, str]]:
    """Return what the cluster knows of each job, or element of a job array."""
    return {path.stem: json.loads(path.read_text()) for path in (folder / "jobs").glob("*.json")}


def sbatch(folder: Path, arguments: list[str]) -> None:
    options = dict(argument.lstrip("-").partition("=")[::2] for argument in arguments[:-1])
    if options.get("partition") == "nowhere":
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    job_id = str(1000 + len({name.partition("_")[0] for name in jobs(folder)}))
    last = int(options["array"].partition("-")[2]) if "array" in options else None
    names = [job_id] if last is None else [f"{job_id}_{index}" for index in range(last + 1)]
    for name in names:
        reason = "JobHeldUser" if "hold" in options else "None"
        arrival = {"log": options["output"], "script": arguments[-1], "argv": " ".join(arguments)}
        change(folder, name, state="PENDING", reason=reason, **arrival)
        if "hold" not in options:
            release(folder, name)
    if (folder / "slow").exists():
        time.sleep(600)
    sys.stdout.write(f"{job_id};lab\n")


def release(folder: Path, name: str) -> None:
    """Start a job."""
    command = ["setsid", "--fork", sys.executable, "-S", __file__, str(folder), "run", name]
    silent = subprocess.DEVNULL
    subprocess.run(command, stdin=silent, stdout=silent, stderr=silent, check=True)


def run(folder: Path, arguments: list[str]) -> None:
    job_id, _, index = arguments[0].partition("_")
    known = jobs(folder)[arguments[0]]
    change(folder, arguments[0], state="RUNNING", reason="None", pid=os.getpid())
    signal.signal(signal.SIGTERM, lambda *_: None)
    environment = {**os.environ, "SLURM_JOB_ID": job_id}
    if index:
        environment |= {"SLURM_ARRAY_JOB_ID": job_id, "SLURM_ARRAY_TASK_ID": index}
    with Path(known["log"]).open("ab") as log:
        code = subprocess.call(["sh", known["script"]], env=environment, stdout=log, stderr=log)
    if jobs(folder)[arguments[0]]["state"] == "RUNNING":
        change(folder, arguments[0], state="FAILED" if code else "COMPLETED", code=code)


def squeue(folder: Path, arguments: list[str]) -> None:
    options = dict(argument.lstrip("-").partition("=")[::2] for argument in arguments)
    known = jobs(folder)
    if "Format" in options:
        for name, job in known.items():
            sys.stdout.write(f"{name.partition('_')[0]:20}{job['log']:4096}\n")
        return
    wanted = options["jobs"].split(",")
    found = [name for name in known if name in wanted or name.partition("_")[0] in wanted]
    if not found:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    for name in found:
        sys.stdout.write(f"{name}|{known[name]['state']}|{known[name]['reason']}|node01\n")


def scontrol(folder: Path, arguments: list[str]) -> None:
    job = jobs(folder).get(arguments[2])
    if job is None:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    sys.stdout.write(
        f"JobId={arguments[2]} JobState={job['state']} ExitCode={job.get('code', 0)}:0\n"
    )


def scancel(folder: Path, arguments: list[str]) -> None:
    for name, job in jobs(folder).items():
        if arguments[0] in (name, name.partition("_")[0]) and job["state"] in (
            "PENDING",
            "RUNNING",
        ):
            change(folder, name, state="CANCELLED")
            if "pid" in job:
                os.killpg(int(job["pid"]), signal.SIGTERM)


if __name__ == "__main__":
    home, command = Path(sys.argv[1]), sys.argv[2]
    if command != "run" and (home / "down").exists():
        sys.exit(f"{command}: error: Unable to contact slurm controller (connect failure)")
    {"sbatch": sbatch, "squeue": squeue, "scontrol": scontrol, "scancel": scancel, "run": run}[
        command
    ](home, sys.argv[3:])
