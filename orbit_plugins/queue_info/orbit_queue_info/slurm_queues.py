"""Add up groups of nodes, as sinfo(1) prints them, to queues."""

import re
from collections.abc import Iterable

import attrs

from .models import Queue

UNAVAILABLE = frozenset((
    "DOWN", "DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING", "MAINT", "FUTURE", "POWER_DOWN",
    "POWERED_DOWN", "POWERING_DOWN", "NOT_RESPONDING", "REBOOT_ISSUED", "INVAL", "UNKNOWN",
))  # fmt: skip
"""States in which a node takes no jobs (sinfo(1), NODE STATE CODES)."""

_GPUS = re.compile(r"(?:^|,)gpu(?::[^:,()]*)*?:(\d{1,6})(?=[(,]|$)", re.ASCII)


@attrs.frozen
class NodeGroup:
    """Describe nodes of one queue that are alike; ``states`` are words in capitals."""

    queue: str
    queue_state: str
    time_limit: int | None
    states: list[str]
    nodes: int
    cpus: int
    memory: int
    gres: str
    features: str
    default: bool | None = None
    nodes_min: int | None = None
    nodes_max: int | None = None

    @property
    def is_available(self) -> bool:
        """Tell whether the nodes may run jobs."""
        return not UNAVAILABLE.intersection(self.states)


def gpus_of(gres: str) -> int:
    """Return the number of GPUs in ``gpu:a100:2(S:0-1),gpu:v100:1``."""
    return sum(map(int, _GPUS.findall(gres)))


def queues_of(groups: Iterable[NodeGroup]) -> dict[str, Queue]:
    """Return the queues by name; what nodes have is the most that one of them has."""
    found: dict[str, list[NodeGroup]] = {}
    for group in groups:
        if group.queue:
            found.setdefault(group.queue, []).append(group)
    return {name: _queue(name, found[name]) for name in sorted(found)}


def _queue(name: str, groups: list[NodeGroup]) -> Queue:
    first = groups[0]
    available = [group for group in groups if group.is_available]
    features = {word for group in groups for word in group.features.split(",") if word}
    return Queue(
        name=name,
        state=first.queue_state,
        time_limit=first.time_limit,
        default=first.default,
        nodes_total=sum(group.nodes for group in groups),
        nodes_available=sum(group.nodes for group in available),
        nodes_idle=sum(group.nodes for group in available if "IDLE" in group.states),
        cpus_per_node=max(group.cpus for group in groups),
        mem_per_node_mb=max(group.memory for group in groups),
        gpus_per_node=max(gpus_of(group.gres) for group in groups),
        features=sorted(features - {"(null)"}),
        walltime_max=first.time_limit,
        nodes_min=first.nodes_min,
        nodes_max=first.nodes_max,
    )
