"""Read the JSON of SLURM: 22.05 (data_parser v0.0.38) and 24.11 (v0.0.40 and later).

The former writes plain numbers and single words where the latter writes
``{"set", "infinite", "number"}`` and lists.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from .models import Allocation, Job, Queue
from .slurm_queues import NodeGroup, queues_of

_UNSET = (0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFE, 0xFFFFFFFFFFFFFFFF)
"""NO_VAL and INFINITE in their sizes (slurm.h)."""

_PARENTS_SHARE = 0x7FFFFFFF
"""SLURMDB_FS_USE_PARENT (slurmdb.h)."""


class NotInJson(ValueError):
    """Report that this SLURM does not tell in JSON what is needed: ask for text then."""


def parse_sinfo(text: str) -> dict[str, Queue]:
    """Return the queues of ``sinfo --json``.

    Raises NotInJson, also for 22.05, whose JSON has nodes but no limits of partitions.
    """
    return queues_of(map(_node_group, _records(text, "sinfo")))


def parse_squeue(text: str, now: float) -> list[Job]:
    """Return the jobs of ``squeue --json``; those that run have run until ``now``.

    Raises NotInJson.
    """
    return [_job(record, now) for record in _records(text, "jobs")]


def parse_associations(text: str) -> list[Allocation]:
    """Return the allocations of ``sacctmgr show assoc --json``. Raises NotInJson."""
    return [_allocation(record) for record in _records(text, "associations")]


def _records(text: str, key: str) -> Iterator[Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise NotInJson("this is no JSON") from None
    found = document.get(key) if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise NotInJson(f"the JSON has no list {key!r}")
    return (record for record in found if isinstance(record, dict))


def _at(record: Any, path: str) -> Any:
    """Return what stands at ``a.b.c``, or None."""
    for key in path.split("."):
        record = record.get(key) if isinstance(record, dict) else None
    return record


def _number(value: Any) -> int | None:
    if isinstance(value, dict):
        is_number = value.get("set") is True and value.get("infinite") is not True
        return _number(value.get("number")) if is_number else None
    if type(value) not in (int, float) or value != value or abs(value) > 2**64:
        return None
    return None if value in _UNSET else int(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = value[0] if value else ""
    return str(value) if isinstance(value, (str, int)) else ""


def _reader(record: Any) -> tuple[Callable[[str], int], Callable[[str], str]]:
    """Return functions that read a number (0 if there is none) and a text at a path."""
    return lambda path: _number(_at(record, path)) or 0, lambda path: _text(_at(record, path))


def _minutes(value: Any) -> int | None:
    minutes = _number(value)
    return None if minutes is None else 60 * minutes


def _node_group(record: Any) -> NodeGroup:
    number, text = _reader(record)
    states = _at(record, "node.state")
    return NodeGroup(
        queue=text("partition.name"),
        queue_state=text("partition.partition.state"),
        time_limit=_minutes(_at(record, "partition.maximums.time")),
        states=[str(state) for state in states] if isinstance(states, list) else [],
        nodes=number("nodes.total"),
        cpus=number("cpus.maximum"),
        memory=number("memory.maximum"),
        gres=text("gres.total"),
        features=text("features.total"),
        nodes_min=_number(_at(record, "partition.minimums.nodes")),
        nodes_max=_number(_at(record, "partition.maximums.nodes")),
    )


def _job(record: Any, now: float) -> Job:
    number, text = _reader(record)
    state, start = text("job_state"), number("start_time")
    array = number("array_job_id")
    return Job(
        job_id=text("job_id"),
        job_name=text("name"),
        user=text("user_name"),
        partition=text("partition"),
        state=state,
        nodes=number("node_count"),
        cpus=number("cpus"),
        time_limit=_minutes(_at(record, "time_limit")),
        time_used=max(0, int(now) - start) if state == "RUNNING" and start else 0,
        submit_time=number("submit_time"),
        start_time=start,
        priority=number("priority"),
        account=text("account"),
        node_list=text("nodes"),
        reason=text("state_reason"),
        qos=text("qos"),
        dependency=text("dependency"),
        std_out=text("standard_output"),
        std_err=text("standard_error"),
        work_dir=text("current_working_directory"),
        command=text("command"),
        exit_code=_exit_code(_at(record, "exit_code"), state),
        array_job_id=str(array) if array else None,
        array_task_id=_number(_at(record, "array_task_id")) if array else None,
        tres_req=text("tres_req_str"),
        tres_alloc=text("tres_alloc_str"),
        restart_cnt=number("restart_cnt"),
    )


_GOING_ON = ("PENDING", "RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING", "STOPPED", "REQUEUED")


def _exit_code(value: Any, state: str) -> int | None:
    """Return a finished job's exit code; 22.05 has a status as of wait(2)."""
    if state in _GOING_ON:
        return None
    if isinstance(value, dict):
        return _number(value.get("return_code"))
    status = _number(value)
    return None if status is None or status & 0x7F else status >> 8


def _allocation(record: Any) -> Allocation:
    _, text = _reader(record)
    share = _number(record.get("shares_raw"))
    qos = record.get("qos")
    return Allocation(
        account=text("account"),
        user=text("user"),
        fairshare=None if share == _PARENTS_SHARE else share,
        qos=",".join(sorted(map(str, qos))) if isinstance(qos, list) else "",
        max_jobs=_number(_at(record, "max.jobs.active")),
        max_submit=_number(_at(record, "max.jobs.total")),
        max_wall=_minutes(_at(record, "max.jobs.per.wall_clock")),
        grp_tres=_tres(_at(record, "max.tres.total")),
        partition=text("partition"),
    )


def _tres(value: Any) -> str:
    """Return ``[{"type": "gres", "name": "gpu", "count": 2}]`` as ``gres/gpu=2``."""
    entries = (
        [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
    )
    return ",".join(
        re.sub("/$", "", f"{entry.get('type')}/{entry.get('name') or ''}")
        + f"={entry.get('count')}"
        for entry in entries
    )
