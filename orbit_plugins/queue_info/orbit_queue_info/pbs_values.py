"""Turn the records of PBS Pro into queues, jobs and allocations."""

import re
import time
from collections.abc import Iterable, Mapping

import attrs

from orbit_core.batch import Record, seconds_of

from .models import Allocation, Job, Queue

STATES = {
    "Q": "PENDING", "W": "PENDING", "T": "PENDING", "R": "RUNNING", "B": "RUNNING",
    "E": "COMPLETING", "F": "COMPLETED", "X": "COMPLETED", "H": "HELD", "U": "SUSPENDED",
    "S": "SUSPENDED", "M": "MOVED",
}  # fmt: skip
"""Every state of qstat(1B)."""

_OUT_OF_SERVICE = ("down", "offline", "unavailable", "unknown", "stale")
_SIZE = re.compile(r"(\d{1,18})([kmgtp]?)b?", re.IGNORECASE | re.ASCII)
_MIB = {"": 2**-20, "k": 2**-10, "m": 1, "g": 2**10, "t": 2**20, "p": 2**30}


@attrs.frozen
class NodePool:
    """Add up all nodes: PBS's queues share them."""

    total: int = 0
    available: int = 0
    idle: int = 0
    cpus: int | None = None
    memory: int | None = None
    gpus: int = 0


def node_pool(nodes: Mapping[str, Record]) -> NodePool:
    """Return the sums over pbsnodes' records; what nodes have is the most that one of them has."""
    available = [record for record in nodes.values() if _is_available(record)]
    cpus = [_number(record.get("resources_available.ncpus")) for record in nodes.values()]
    memory = [megabytes(record.get("resources_available.mem", "")) for record in nodes.values()]
    gpus = [_number(record.get("resources_available.ngpus")) for record in nodes.values()]
    return NodePool(
        total=len(nodes),
        available=len(available),
        idle=sum(not record.get("jobs") for record in available),
        cpus=max(cpus, default=None),
        memory=max((size for size in memory if size is not None), default=None),
        gpus=max(gpus, default=0),
    )


def _is_available(record: Record) -> bool:
    return not any(word in record.get("state", "") for word in _OUT_OF_SERVICE)


def queues_of(records: Mapping[str, Record], pool: NodePool) -> dict[str, Queue]:
    """Return the queues of ``qstat -Qf`` by name."""
    return {name: _queue(name, records[name], pool) for name in sorted(records)}


def _queue(name: str, record: Record, pool: NodePool) -> Queue:
    is_up = record.get("enabled") == "True" and record.get("started") == "True"
    limit = seconds_of(record.get("resources_max.walltime", ""))
    per_user = re.search(r"u:PBS_GENERIC=(\d{1,9})", record.get("max_run", ""), re.ASCII)
    return Queue(
        name=name,
        state="UP" if is_up else "DOWN",
        time_limit=limit,
        nodes_total=pool.total,
        nodes_available=pool.available,
        nodes_idle=pool.idle,
        cpus_per_node=pool.cpus,
        mem_per_node_mb=pool.memory,
        gpus_per_node=pool.gpus,
        max_jobs_per_user=int(per_user[1]) if per_user else None,
        walltime_min=seconds_of(record.get("resources_min.walltime", "")),
        walltime_max=limit,
        nodes_min=_optional(record.get("resources_min.nodect")),
        nodes_max=_optional(record.get("resources_max.nodect")),
    )


def may_use(record: Record, user: str, groups: Iterable[str]) -> bool:
    """Tell whether a queue's access lists let a user in (pbs_queue_attributes(7B)); both must."""
    return _allows(record, "user", [user]) and _allows(record, "group", groups)


def _allows(record: Record, kind: str, names: Iterable[str]) -> bool:
    """Read ``acl_users = +anna@host,-bob``; who is not named stays out."""
    if record.get(f"acl_{kind}_enable") != "True":
        return True
    listed = [entry.strip() for entry in record.get(f"acl_{kind}s", "").split(",")]
    verdicts = {entry.lstrip("+-").partition("@")[0]: entry[:1] != "-" for entry in listed}
    found = [verdicts[name] for name in names if name in verdicts]
    return any(found) if found else verdicts.get("*", False)


def job_of(name: str, record: Record, now: float) -> Job:
    """Return a job of ``qstat -f``; one that runs and does not tell has run until ``now``."""
    get = record.get
    state, start = (
        STATES.get(get("job_state", ""), "UNKNOWN"),
        seconds_since_epoch(get("stime", "")),
    )
    owner, chunks = get("Job_Owner", ""), get("exec_host", "")
    used = seconds_of(get("resources_used.walltime", ""))
    if used is None:
        used = max(0, int(now) - start) if state == "RUNNING" and start else 0
    return Job(
        job_id=name.partition(".")[0],
        job_name=get("Job_Name", ""),
        user=owner.partition("@")[0],
        partition=get("queue", ""),
        state=state,
        nodes=_number(get("Resource_List.nodect")),
        cpus=_number(get("Resource_List.ncpus")),
        time_limit=seconds_of(get("Resource_List.walltime", "")),
        time_used=used,
        submit_time=seconds_since_epoch(get("qtime", "")),
        start_time=start,
        priority=_number(get("Priority")),
        account=get("Account_Name", ""),
        node_list=",".join(dict.fromkeys(part.partition("/")[0] for part in chunks.split("+"))),
        reason=get("comment", ""),
        qos=get("Resource_List.qos", ""),
        dependency=get("depend", ""),
        std_out=get("Output_Path", "").partition(":")[2],
        std_err=get("Error_Path", "").partition(":")[2],
        work_dir=get("Variable_List.PBS_O_WORKDIR", ""),
        command=get("Submit_arguments", ""),
        exit_code=_optional(get("Exit_status")),
        owner=owner,
        mem_used=get("resources_used.mem"),
    )


def megabytes(text: str) -> int | None:
    """Return ``527672488kb`` or ``1gb`` in MiB."""
    found = _SIZE.fullmatch(text.strip())
    return int(int(found[1]) * _MIB[found[2].lower()]) if found else None


def seconds_since_epoch(text: str) -> int:
    """Return local time as ctime(3) writes it, or seconds since the epoch; 0 if it is neither."""
    if text.isascii() and text.isdecimal():
        return _number(text)
    try:
        moment = time.strptime(text, "%a %b %d %H:%M:%S %Y")
        return max(0, int(time.mktime(moment)))
    except (ValueError, OverflowError):
        return 0


def parse_sbank(text: str, user: str) -> list[Allocation]:
    """Return the allocations in a table of ``sbank-list-allocations``, up to a blank line.

    The row of dashes tells where each column is.
    """
    lines = text.splitlines()
    rule = next((at for at, line in enumerate(lines) if re.fullmatch(r"\s*-+[\s-]*", line)), None)
    if not rule:
        return []
    spans = [found.span() for found in re.finditer(r"-+", lines[rule])]
    names = _cells(lines[rule - 1], spans)
    found = []
    for line in lines[rule + 1 :]:
        if not line.strip():
            break
        found.append(_allocation(dict(zip(names, _cells(line, spans), strict=True)), user))
    return found


def _cells(line: str, spans: list[tuple[int, int]]) -> list[str]:
    ends = [start for start, _ in spans[1:]] + [len(line)]
    return [line[start:end].strip() for (start, _), end in zip(spans, ends, strict=True)]


def _allocation(row: dict[str, str], user: str) -> Allocation:
    used, remaining = _decimal(row.get("Charged")), _decimal(row.get("Available Balance"))
    total = used + remaining if used is not None and remaining is not None else None
    return Allocation(
        account=row.get("Project", ""),
        user=user,
        allocated_node_hours=total,
        used_node_hours=used,
        remaining_node_hours=remaining,
        allocation_id=row.get("Allocation"),
        suballocation_id=row.get("Suballocation"),
        start_date=row.get("Start"),
        end_date=row.get("End"),
        resource=row.get("Resource"),
        jobs=_optional((row.get("Jobs") or "").replace(",", "")),
    )


def _decimal(text: str | None) -> float | None:
    plain = (text or "").replace(",", "")
    return float(plain) if re.fullmatch(r"-?\d{1,15}(\.\d{1,9})?", plain, re.ASCII) else None


def _optional(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d{1,18}", text, re.ASCII) else None


def _number(text: str | None) -> int:
    return _optional(text) or 0
