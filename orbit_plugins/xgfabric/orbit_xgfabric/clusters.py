"""Tell which of the connected endpoints are clusters of which kind."""

from collections.abc import Iterator

import attrs

from .errors import NoImmediateCluster
from .models import ClusterConfig, ClusterType, ResourceConfig
from .reach import Fleet
from .states import ClusterStatus, WorkflowState

NEEDED: dict[ClusterType, frozenset[str]] = {
    "immediate": frozenset({"rhapsody", "staging"}),
    "allocate": frozenset({"psij", "staging"}),
}
"""The plugins without which an endpoint cannot be a cluster of that kind."""

SCHEDULER = "queue_info"
"""The plugin whose presence says that an endpoint's work has to wait in a queue."""


def kind_of(config: ClusterConfig, plugins: frozenset[str]) -> ClusterType:
    """Return what a cluster is: as configured, else ``allocate`` if it has a scheduler."""
    return config.cluster_type or ("allocate" if SCHEDULER in plugins else "immediate")


def clusters(fleet: Fleet, resource: ResourceConfig) -> Iterator[ClusterStatus]:
    """Iterate over the usable clusters: those that are configured, in their order, then others.

    Others' children, such as the pilots of other runs, are none.
    """
    names = [
        *resource.cluster_configs,
        *(name for name in fleet.names() if not _is_child(name, fleet)),
    ]
    for name in dict.fromkeys(names):
        plugins = fleet.plugins(name)
        config = resource.cluster_configs.get(name, ClusterConfig())
        kind = kind_of(config, plugins)
        if plugins >= NEEDED[kind]:
            yield status_of(name, kind, config)


def present(fleet: Fleet, state: WorkflowState) -> WorkflowState:
    """Return a state whose clusters are online if they are now."""

    def seen(found: list[ClusterStatus]) -> list[ClusterStatus]:
        return [attrs.evolve(one, online=bool(fleet.plugins(one.name))) for one in found]

    return attrs.evolve(
        state,
        immediate_clusters=seen(state.immediate_clusters),
        allocate_clusters=seen(state.allocate_clusters),
    )


def status_of(name: str, kind: ClusterType, config: ClusterConfig) -> ClusterStatus:
    """Return a connected cluster's status with what is configured for it."""
    return ClusterStatus(
        name,
        name,
        kind,
        online=True,
        queue=config.queue,
        account=config.account,
        duration=config.duration,
        nodes=config.nodes,
        executor=config.executor,
        workflow_path=config.workflow_path,
    )


def absent(fleet: Fleet, resource: ResourceConfig) -> Iterator[str]:
    """Iterate over the clusters that are configured and not connected."""
    return (name for name in resource.cluster_configs if not fleet.plugins(name))


def skipped(fleet: Fleet, resource: ResourceConfig) -> dict[str, str]:
    """Return why clusters that are configured cannot be used, by name."""
    found = {}
    for name, config in resource.cluster_configs.items():
        plugins = fleet.plugins(name)
        missing = sorted(NEEDED[kind_of(config, plugins)] - plugins)
        if not plugins:
            found[name] = "is not connected"
        elif missing:
            found[name] = f"serves no {' and no '.join(missing)}"
    return found


def refusal(fleet: Fleet, resource: ResourceConfig, waited: float) -> NoImmediateCluster:
    """Return the error that tells why no connected endpoint is an immediate cluster."""
    lacks = []
    for name in fleet.names():
        kind = kind_of(resource.cluster_configs.get(name, ClusterConfig()), fleet.plugins(name))
        missing = sorted(NEEDED["immediate"] - fleet.plugins(name))
        if missing:
            reason = f"serves no {' and no '.join(missing)}"
        elif kind == "immediate":
            reason = "is not configured, and the tasks need a workflow_path"
        else:
            reason = f"is of kind {kind}"
        lacks.append(f"{name} {reason}")
    away = ", ".join(absent(fleet, resource))
    missed = f". Configured, but not connected: {away}" if away else ""
    return NoImmediateCluster(
        f"no immediate cluster was connected within {waited:g} s: start an endpoint with the "
        f"plugins rhapsody and staging, or set its cluster_type. Connected: "
        f"{', '.join(lacks) or 'none'}{missed}"
    )


def _is_child(name: str, fleet: Fleet) -> bool:
    parent = name.rpartition(".")[0]
    return parent in fleet.topology
