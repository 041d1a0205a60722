"""Read SLURM's text, which every version prints: fields parted by a character that no name has."""

import re

from orbit_core.batch import seconds_of

from .models import Allocation, Job, Queue
from .slurm_queues import NodeGroup, queues_of

SEPARATOR = "\x1f"

SINFO = SEPARATOR.join(("%P", "%a", "%l", "%D", "%T", "%c", "%m", "%G", "%f"))
SQUEUE = SEPARATOR.join((
    "%A", "%F", "%K", "%u", "%P", "%T", "%D", "%C", "%l", "%M", "%V", "%S", "%Q", "%a", "%N", "%r",
    "%q", "%E", "%o", "%Z", "%j",
))  # fmt: skip
"""What sinfo(1) and squeue(1) are to print, as their option ``--format`` has it."""

_FLAGS = "*~#!%$@^-+"
"""What sinfo(1) adds to a state: ``*`` is a node that does not respond."""

_ASSOCIATION_FIELDS = 18


def parse_sinfo_text(text: str) -> dict[str, Queue]:
    """Return the queues of ``sinfo --format`` `SINFO`; lines that are none are left out."""
    lines = (line.split(SEPARATOR) for line in text.splitlines())
    return queues_of(_node_group(line) for line in lines if len(line) == SINFO.count("%"))


def _node_group(line: list[str]) -> NodeGroup:
    queue, is_up, limit, nodes, state, cpus, memory, gres, features = line
    states = [state.rstrip(_FLAGS).upper()]
    if "*" in state:
        states.append("NOT_RESPONDING")
    return NodeGroup(
        queue=queue.rstrip("*"),
        queue_state=is_up.upper(),
        time_limit=seconds_of(limit),
        states=states,
        nodes=_number(nodes),
        cpus=_number(cpus.rstrip("+")),
        memory=_number(memory.rstrip("+")),
        gres="" if gres == "(null)" else gres,
        features=features,
        default=queue.endswith("*"),
    )


def parse_squeue_text(text: str) -> list[Job]:
    """Return the jobs of ``squeue --format`` `SQUEUE`, whose times are seconds since the epoch.

    Lines that are none are left out.
    """
    lines = (line.split(SEPARATOR) for line in text.splitlines())
    return [_job(line) for line in lines if len(line) == SQUEUE.count("%")]


def _job(line: list[str]) -> Job:
    job_id, array, task, user, partition, state, nodes, cpus, limit, used, *rest = line
    submitted, started, priority, account, node_list, reason, *rest = rest
    qos, dependency, command, work_dir, name = rest
    is_array = task != "N/A"
    return Job(
        job_id=job_id,
        job_name=name,
        user=user,
        partition=partition,
        state=state,
        nodes=_number(nodes),
        cpus=_number(cpus),
        time_limit=seconds_of(limit),
        time_used=(seconds_of(used) or 0) if state == "RUNNING" else 0,
        submit_time=_number(submitted),
        start_time=_number(started),
        priority=_number(priority),
        account=_known(account),
        node_list=node_list,
        reason=reason,
        qos=_known(qos),
        dependency=_known(dependency),
        work_dir=work_dir,
        command=_known(command),
        array_job_id=array if is_array else None,
        array_task_id=_number(task) if is_array and task.isdecimal() else None,
    )


def parse_associations_text(text: str) -> list[Allocation]:
    """Return the allocations of ``sacctmgr show assoc --parsable2 --noheader`` (sacctmgr(1))."""
    lines = (line.split("|") for line in text.splitlines())
    return [_allocation(line) for line in lines if len(line) >= _ASSOCIATION_FIELDS]


def _allocation(line: list[str]) -> Allocation:
    return Allocation(
        account=line[1],
        user=line[2],
        fairshare=_optional(line[4]),
        qos=",".join(sorted(line[17].split(","))),
        max_jobs=_optional(line[11]),
        max_submit=_optional(line[14]),
        max_wall=seconds_of(line[15]),
        grp_tres=line[7],
        partition=line[3],
    )


def _known(text: str) -> str:
    return "" if text in ("(null)", "N/A") else text


def _optional(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


def _number(text: str) -> int:
    return _optional(text) or 0
