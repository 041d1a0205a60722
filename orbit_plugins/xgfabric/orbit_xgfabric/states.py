"""Name the values that say how a run is; times are in UTC."""

from typing import Literal

import attrs

from .models import ClusterType

Status = Literal["idle", "running", "completed", "failed"]
Level = Literal["debug", "info", "warning", "error"]

LOG_LENGTH = 50
"""Entries that a state's log has at most."""


@attrs.frozen
class ClusterStatus:
    """Say how a cluster of a run is; what is configured for it stands beside."""

    name: str
    endpoint_name: str
    cluster_type: ClusterType
    has_gpu: bool = False
    online: bool = False
    tasks_running: int = 0
    pilot_job_id: str | None = None
    pilot_status: str | None = None
    queue: str | None = None
    account: str | None = None
    duration: float | None = None
    nodes: int | None = None
    executor: str | None = None
    workflow_path: str | None = None


@attrs.frozen
class LogEntry:
    """Hold a line of a run's log; ``time`` is ``HH:MM:SS`` in UTC."""

    time: str
    level: Level
    message: str


@attrs.frozen
class WorkflowState:
    """Say how a run is; times are ISO 8601 in UTC, ``progress`` is per cent.

    ``pilot_jobs`` are job ids by cluster, ``skipped_clusters`` tells why clusters that are
    configured are not used. ``log`` has the newest entry first.
    """

    status: Status = "idle"
    phase: str = "idle"
    progress: float = 0.0
    message: str = ""
    start_time: str | None = None
    end_time: str | None = None
    error: str | None = None
    active_cluster: str | None = None
    completed_simulations: int = 0
    total_simulations: int = 0
    current_batch: int = 0
    total_batches: int = 0
    pilot_jobs: dict[str, str] = attrs.field(factory=dict)
    immediate_clusters: list[ClusterStatus] = attrs.field(factory=list)
    allocate_clusters: list[ClusterStatus] = attrs.field(factory=list)
    skipped_clusters: dict[str, str] = attrs.field(factory=dict)
    log: list[LogEntry] = attrs.field(factory=list)
    config_name: str | None = None
    config_dir: str | None = None
    run_id: str | None = None

    def logged(self, entry: LogEntry) -> "WorkflowState":
        """Return this state with one more entry in its log; the oldest beyond 50 is dropped."""
        return attrs.evolve(self, log=[entry, *self.log][:LOG_LENGTH])
