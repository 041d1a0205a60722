"""Be qstat: jobs, queues and the server."""

import argparse
import os
import re
import sys
from collections import Counter

from notes import read_note
from render import VERSION, ctime, print_json, print_text
from slurm import (
    SERVER,
    clock,
    find,
    hosts,
    jobs,
    letter,
    native,
    number_of,
    past_jobs,
    seconds,
    show,
)

_SUBSTATES = {"Q": 10, "H": 20, "W": 30, "R": 42, "S": 43, "E": 51, "F": 92}
_TERMINATED = 91


def qstat(arguments):
    """Print what is asked for; exit status 153 for an unknown job, 35 for a finished one."""
    parser = argparse.ArgumentParser("qstat")
    for flag in ("-f", "-x", "-Q", "-B", "-w"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-F", default="text", type=str.lower)
    parser.add_argument("names", nargs="*")
    wanted = parser.parse_args(arguments)
    if wanted.B:
        show("config")
        kind, head, records, status = "Server", "Server: ", {SERVER: _server()}, 0
    elif wanted.Q:
        kind, head, records, status = "Queue", "Queue: ", _queues(wanted.names), 0
    else:
        found, status = _jobs(wanted.names, with_finished=wanted.x)
        kind, head, records = "Jobs", "Job Id: ", found
    if wanted.F == "json":
        print_json(kind, records)
    else:
        print_text(head, records, is_wide=wanted.w)
    return status


def _server():
    return {"server_state": "Active", "default_queue": "debug", "pbs_version": VERSION}


def _queues(names):
    everything = list(jobs().values())
    return {
        partition["PartitionName"]: _queue(partition, everything)
        for partition in show("partition")
        if not names or partition["PartitionName"] in names
    }


def _queue(partition, everything):
    name = partition["PartitionName"]
    count = Counter(letter(job) for job in everything if job["Partition"] == name)
    states = {"Transit": 0, "Queued": "Q", "Held": "H", "Waiting": "W", "Running": "R",
              "Exiting": "E", "Begun": 0}  # fmt: skip
    found = {
        "queue_type": "Execution",
        "total_jobs": count.total() - count["F"],
        "state_count": "".join(f"{state}:{count[code]} " for state, code in states.items()),
        "resources_max": {"nodect": int(partition["TotalNodes"])},
    }
    if (limit := seconds(partition["MaxTime"])) is not None:
        found["resources_max"]["walltime"] = clock(limit)
    if (default := seconds(partition["DefaultTime"])) is not None:
        found["resources_default"] = {"walltime": clock(default)}
    is_up = str(partition["State"] == "UP")
    return found | {"hasnodes": "True", "enabled": "True", "started": is_up}


def _jobs(names, *, with_finished):
    known = jobs()
    if not names:
        known = (past_jobs() if with_finished else {}) | known
        names = sorted(known, key=lambda number: int(re.match(r"\d+", number)[0]))
        names = [name for name in names if with_finished or letter(known[name]) != "F"]
    elif missing := {name for name in map(number_of, names) if not find(known, name)}:
        known |= past_jobs(map(native, missing))
    records, status = {}, 0
    for name in map(number_of, names):
        full = f"{name}.{SERVER}"
        job = find(known, name)
        if job is None:
            print(f"qstat: Unknown Job Id {full}", file=sys.stderr)
            status = 153
        elif letter(job) == "F" and not with_finished:
            advice = "use -x or -H to obtain historical job information"
            print(f"qstat: {full} Job has finished, {advice}", file=sys.stderr)
            status = 35
        else:
            records[full] = _job(job)
            if name.endswith("[]") and letter(job) != "F":
                records[full]["job_state"] = "B"
    return records, status


def _job(job):
    code, user = letter(job), job["UserId"].partition("(")[0]
    told = read_note(job.get("Comment", ""))
    host = os.uname().nodename
    nodes, processors = int(job["NumNodes"].split("-")[0] or 1) or 1, int(job["NumCPUs"] or 1)
    select = told.get("select", f"{nodes}:ncpus={max(1, processors // nodes)}")
    resources = {"ncpus": processors, "nodect": nodes, "place": "free", "select": select}
    if (limit := seconds(job["TimeLimit"])) is not None:
        resources["walltime"] = clock(limit)
    record = {
        "Job_Name": job["JobName"],
        "Job_Owner": f"{user}@{host}",
        "resources_used": _used(job, processors),
        "job_state": code,
        "queue": job["Partition"],
        "server": SERVER,
        "Account_Name": job.get("Account"),
        "ctime": ctime(job["SubmitTime"]),
        "Error_Path": f"{host}:{job.get('StdErr', '')}",
        **_places(job, processors // nodes),
        "Hold_Types": "u" if code == "H" else "n",
        "Output_Path": f"{host}:{job.get('StdOut', '')}",
        "Priority": 0,
        "qtime": ctime(job["SubmitTime"]),
        "Rerunable": "True",
        "Resource_List": resources,
        "stime": ctime(job["StartTime"]) if code in "RSEF" else None,
        "substate": _TERMINATED if job["JobState"] == "CANCELLED" else _SUBSTATES[code],
        "Variable_List": {
            "PBS_O_LOGNAME": user, "PBS_O_QUEUE": job["Partition"], "PBS_O_HOST": host,
            "PBS_O_WORKDIR": told.get("directory", job.get("WorkDir", "")),
            **told.get("variables", {}),
        },
        "comment": f"Not Running: {job.get('Reason')}" if code in "QHW" else "Job run",
        "Exit_status": _exit_status(job) if code == "F" else None,
        "Submit_arguments": told.get("arguments", ""),
    }  # fmt: skip
    return {key: value for key, value in record.items() if value not in (None, {})}


def _used(job, processors):
    elapsed = seconds(job["RunTime"])
    if not elapsed:
        return {}
    return {"cput": "00:00:00", "mem": "5652kb", "ncpus": processors, "walltime": clock(elapsed)}


def _places(job, per_node):
    names = hosts(job["NodeList"])
    if not names:
        return {}
    slots = f"*{per_node}" if per_node > 1 else ""
    return {"exec_host": "+".join(f"{name}/0{slots}" for name in names),
            "exec_vnode": "+".join(f"({name}:ncpus={per_node})" for name in names)}  # fmt: skip


def _exit_status(job):
    """Return what PBS would: 256 + signal, or a negative number for its own reasons."""
    special = {"CANCELLED": 271, "TIMEOUT": -29, "OUT_OF_MEMORY": -27, "NODE_FAIL": -3}
    code, number = map(int, job["ExitCode"].split(":"))
    return special.get(job["JobState"], 256 + number if number else code)
