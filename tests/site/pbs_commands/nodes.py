"""Be pbsnodes."""

import argparse
import re

from render import VERSION, print_json, print_text
from slurm import SERVER, hosts, jobs, letter, show


def pbsnodes(arguments):
    """Print all nodes."""
    parser = argparse.ArgumentParser("pbsnodes")
    parser.add_argument("-a", action="store_true")
    parser.add_argument("-v", action="store_true")
    parser.add_argument("-F", default="text", type=str.lower)
    wanted = parser.parse_args(arguments)
    running = [job for job in jobs().values() if letter(job) == "R"]
    places = [(f"{job['JobId']}.{SERVER}", hosts(job["NodeList"])) for job in running]
    records = {
        node["NodeName"]: _node(node, [job for job, names in places if node["NodeName"] in names])
        for node in show("node")
    }
    if wanted.F == "json":
        print_json("nodes", records)
    else:
        print_text("", records, indent=5, is_wide=True)
    return 0


def _node(node, running):
    processors, used = int(node["CPUTot"]), int(node["CPUAlloc"])
    record = {
        "Mom": node["NodeName"],
        "Port": 15002,
        "pbs_version": VERSION,
        "ntype": "PBS",
        "state": _state(node["State"], is_full=used >= processors),
        "pcpus": processors,
        "resources_available": {"arch": "linux", "host": node["NodeName"], "ncpus": processors,
                                "mem": f"{int(node['RealMemory']) * 1024}kb"},
        "resources_assigned": {"mem": f"{int(node['AllocMem']) * 1024}kb", "ncpus": used},
        "resv_enable": "True",
        "sharing": "default_shared",
    }  # fmt: skip
    if gpus := re.search(r"gpu.*:(\d+)", node.get("Gres", "")):
        record["resources_available"]["ngpus"] = int(gpus[1])
    if running:
        record["jobs"] = running
    return record


def _state(state, *, is_full):
    if "DOWN" in state or "*" in state:
        return "down"
    if "DRAIN" in state:
        return "offline"
    return "job-busy" if is_full else "free"
