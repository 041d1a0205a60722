"""Be bsub, bjobs and bkill of LSF, or qsub, qstat and qdel of Cobalt, in a folder.

``python fake_lsf.py FOLDER COMMAND [ARGUMENT...]``. They print what the manuals of these commands
show (IBM Spectrum LSF 10.1, Cobalt 1.0), and really run the scripts that they are given. A file
``down`` in the folder is a daemon that does not answer, one called ``reason`` has what LSF says of
jobs that end badly, and one called ``hold`` keeps jobs in the queue.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

LSF, COBALT = ("bsub", "bjobs", "bkill"), ("qsub", "qstat", "qdel")
_STATES = {"PEND": "queued", "RUN": "running"}


def install(folder: Path, commands: tuple[str, ...]) -> Path:
    """Write the commands, and return the folder of them for ``PATH``."""
    (folder / "bin").mkdir(parents=True)
    (folder / "jobs").mkdir()
    for name in commands:
        path = folder / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -S {__file__} {folder} {name} "$@"\n')
        path.chmod(0o755)
    return folder / "bin"


def change(folder: Path, job_id: str, **changes: object) -> None:
    """Change what is known of a job."""
    path = folder / "jobs" / f"{job_id}.json"
    draft = path.with_suffix(f".{os.getpid()}")
    known = json.loads(path.read_text()) if path.exists() else {}
    draft.write_text(json.dumps({**known, **changes}))
    draft.replace(path)


def jobs(folder: Path) -> dict[str, dict[str, str]]:
    """Return what is known of each job."""
    return {path.stem: json.loads(path.read_text()) for path in (folder / "jobs").glob("*.json")}


def submit(folder: Path, text: str) -> str:
    """Take a job whose directives ask for no queue called ``nowhere``, and return its id."""
    asked = dict(re.findall(r'^#(?:BSUB -|COBALT --)(\w+)[ =]"?(.*?)"?$', text, re.MULTILINE))
    if "nowhere" in (asked.get("q"), asked.get("queue")):
        sys.exit("nowhere: No such queue. Job not submitted.")
    job_id = str(7001 + len(jobs(folder)))
    change(folder, job_id, state="PEND", script=text, asked=asked)
    if not (folder / "hold").exists():
        command = ["setsid", "--fork", sys.executable, "-S", __file__, str(folder), "run", job_id]
        silent = subprocess.DEVNULL
        subprocess.run(command, stdin=silent, stdout=silent, stderr=silent, check=True)
    return job_id


def run(folder: Path, job_id: str) -> None:
    change(folder, job_id, state="RUN", pid=os.getpid())
    signal.signal(signal.SIGTERM, lambda *_: None)
    variables = {"LSB_JOBID": job_id, "COBALT_JOBID": job_id}
    silent = subprocess.DEVNULL
    script = jobs(folder)[job_id]["script"]
    code = subprocess.call(["bash", "-c", script], env={**os.environ, **variables}, stdin=silent)
    change(folder, job_id, state="EXIT" if code else "DONE")


def end(folder: Path, job_id: str) -> None:
    job = jobs(folder).get(job_id)
    if job is None:
        sys.exit(f"Job <{job_id}>: No matching job found")
    change(folder, job_id, state="EXIT")
    if "pid" in job:
        os.killpg(int(job["pid"]), signal.SIGKILL)


def bsub(folder: Path, arguments: list[str]) -> None:
    sys.stdout.write(f"Job <{submit(folder, sys.stdin.read())}> is submitted to queue <normal>.\n")


def bjobs(folder: Path, arguments: list[str]) -> None:
    known, path = jobs(folder), folder / "reason"
    reason = path.read_text() if path.exists() else ""
    records = []
    for job_id in arguments[arguments.index("-a") + 1 :]:
        if job_id in known:
            state = known[job_id]["state"]
            said = reason if state == "EXIT" else ""
            records.append({"JOBID": job_id, "STAT": state, "EXIT_REASON": said,
                            "KILL_REASON": "", "SUSPEND_REASON": ""})  # fmt: skip
        else:
            records.append({"JOBID": job_id, "ERROR": f"Job <{job_id}> is not found"})
    answer = {"COMMAND": "bjobs", "JOBS": len(records), "RECORDS": records}
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")


def bkill(folder: Path, arguments: list[str]) -> None:
    end(folder, arguments[0])
    sys.stdout.write(f"Job <{arguments[0]}> is being terminated\n")


def qsub(folder: Path, arguments: list[str]) -> None:
    sys.stdout.write(f"{submit(folder, Path(arguments[0]).read_text())}\n")


def qstat(folder: Path, arguments: list[str]) -> None:
    """Show the jobs that are not over: Cobalt forgets the others at once."""
    found = {
        job_id: _STATES[job["state"]]
        for job_id, job in jobs(folder).items()
        if job_id in arguments and job["state"] in _STATES
    }
    for job_id, state in found.items():
        sys.stdout.write(f"JobID: {job_id}\n    Jobid : {job_id}\n    State : {state}\n\n")
    sys.exit(0 if found else 1)


def qdel(folder: Path, arguments: list[str]) -> None:
    end(folder, arguments[0])
    sys.stdout.write(f"      Deleted Jobs\nJobID  {arguments[0]}\n")


if __name__ == "__main__":
    home, command, given = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if command == "run":
        run(home, given[0])
    elif (home / "down").exists():
        sys.exit(f"{command}: LSF is down. Please wait ...")
    else:
        called = {"bsub": bsub, "bjobs": bjobs, "bkill": bkill, "qsub": qsub, "qstat": qstat,
                  "qdel": qdel}  # fmt: skip
        called[command](home, given)
