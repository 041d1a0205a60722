"""Ask SLURM for its jobs, partitions and nodes, as plain dicts of scontrol's names."""

import re
import subprocess
import sys

SERVER = "pbs-lab"

_FIELD = re.compile(r"(?:^|\s)([A-Za-z][\w:/]*)=(.*?)(?=\s[A-Za-z][\w:/]*=|$)")
_FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY",
          "DEADLINE", "PREEMPTED", "REVOKED")  # fmt: skip
_ACCOUNTING = {
    "JobIDRaw": "JobId", "JobName": "JobName", "User": "UserId", "Account": "Account",
    "Partition": "Partition", "State": "JobState", "ExitCode": "ExitCode", "Submit": "SubmitTime",
    "Start": "StartTime", "End": "EndTime", "NodeList": "NodeList", "AllocCPUS": "NumCPUs",
    "AllocNodes": "NumNodes", "Timelimit": "TimeLimit", "Elapsed": "RunTime", "WorkDir": "WorkDir",
    "Comment": "Comment",
}  # fmt: skip


def run(*command, script=""):
    """Run a command and return its exit status, output and complaints."""
    done = subprocess.run(command, input=script, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def show(what):
    """Return what ``scontrol show`` prints, one dict a line. Ends the program if that fails."""
    status, output, complaint = run("scontrol", "show", what, "--oneliner")
    if status:
        sys.exit(f"Connection refused\nqstat: cannot connect to server {SERVER} ({complaint})")
    return [dict(_FIELD.findall(line)) for line in output.splitlines() if "=" in line]


def number_of(job_id):
    """Return a PBS job id without its server."""
    return job_id.split(".")[0]


def jobs():
    """Return the jobs that the controller knows, by number; elements of arrays as ``12[3]``."""
    return {name: job for job in show("job") if "JobId" in job for name in _names(job)}


def find(known, number):
    """Return a job by its number; for an array one of its elements, which is not over if any is."""
    if not number.endswith("[]"):
        return known.get(number)
    elements = [job for name, job in known.items() if name.startswith(number[:-1])]
    return min(elements, key=lambda job: letter(job) == "F", default=None)


def _names(job):
    tasks = job.get("ArrayTaskId")
    if tasks is None:
        return [job["JobId"]]
    spans = (part.partition("-") for part in tasks.partition("%")[0].split(","))
    indices = (index for low, _, high in spans for index in range(int(low), int(high or low) + 1))
    return [f"{job['ArrayJobId']}[{index}]" for index in indices]


def native(number):
    """Return what SLURM calls a job, an array or an element."""
    return number.replace("[]", "").replace("[", "_").removesuffix("]")


def past_jobs(numbers=()):
    """Return jobs from the accounting of the last day, by number."""
    names = ",".join(_ACCOUNTING)
    wanted = [f"--jobs={','.join(numbers)}"] if numbers else []
    options = ("--allocations", "--parsable2", "--noheader", "--starttime=now-1days")
    _, output, _ = run("sacct", *options, f"--format={names}", *wanted)
    rows = (line.split("|") for line in output.splitlines())
    found = (dict(zip(_ACCOUNTING.values(), row, strict=True)) for row in rows)
    return {job["JobId"]: {**job, "JobState": job["JobState"].split()[0]} for job in found}


def letter(job):
    """Return the letter that PBS has for a job's state."""
    state, reason = job["JobState"], job.get("Reason", "")
    if state in _FINAL:
        return "F"
    if state != "PENDING":
        return {"COMPLETING": "E", "SUSPENDED": "S", "STOPPED": "S"}.get(state, "R")
    if reason.startswith(("JobHeld", "Dependency")):
        return "H"
    return "W" if reason == "BeginTime" else "Q"


def hosts(nodelist):
    """Return the names that a compressed node list stands for."""
    if nodelist in ("", "(null)", "None assigned"):
        return []
    return run("scontrol", "show", "hostnames", nodelist)[1].split()


def seconds(duration):
    """Return the seconds of ``[D-]HH:MM:SS``, or None."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", duration)
    if found is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def clock(duration):
    """Return seconds as PBS writes them: hours may be more than 24."""
    return f"{duration // 3600:02}:{duration // 60 % 60:02}:{duration % 60:02}"
