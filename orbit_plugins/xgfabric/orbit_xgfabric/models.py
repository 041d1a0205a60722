"""Name the values of workflows that are configured.

Configurations are made from JSON data by `dict_to_config` and `dict_to_resource_config`, and turned
back into it by `config_to_dict`. Times are seconds.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import attrs

from orbit_core.ways.models import Tunnel

from . import rules
from .rules import MANY, YEAR
from .values import Name, read, whole, written

T = TypeVar("T")

CUPS_WOOF = "woof://128.111.45.61/davisstations/daviscupsout"
"""The log of the weather station at the screen house."""

ClusterType = Literal["immediate", "allocate"]
SpeedUnit = Literal["m/s", "mph", "km/h", "kn"]


def _made(given: T | Mapping[str, Any], kind: type[T]) -> T:
    """Return what a program gave as a ``kind``, or as its fields. Raises InvalidConfig."""
    return read(given, kind, kind.__name__) if isinstance(given, Mapping) else given


@attrs.frozen
class ClusterConfig:
    """Say how one endpoint is used; a ``cluster_type`` overrides what its plugins suggest.

    ``queue``, ``account``, ``duration``, ``nodes`` and ``executor`` (a name of PSI/J's; None: the
    endpoint's own scheduler) are asked for the pilot. ``queue`` None is the scheduler's default.
    ``workflow_path`` is where the workflow's programs are there, and its data go; None is the
    directory of the run's own staging session. ``custom_attributes`` go to the scheduler as they
    are, named as PSI/J does. ``tunnel`` is the pilot's way to the bridge. ``backends`` are those of
    RHAPSODY's that run the tasks, there and on its pilot (None: the endpoint's own choice).
    """

    queue: str | None = None
    account: str | None = None
    duration: float = attrs.field(default=3600.0, validator=rules.within(1, YEAR))
    nodes: int = attrs.field(default=1, validator=rules.within(1, MANY))
    executor: str | None = None
    workflow_path: str | None = None
    custom_attributes: dict[str, Any] = attrs.field(factory=dict)
    cluster_type: ClusterType | None = None
    tunnel: Tunnel = "auto"
    backends: list[str] | None = None


def _clusters(
    given: Mapping[str, ClusterConfig | Mapping[str, Any]],
) -> dict[str, ClusterConfig]:
    return {name: _made(cluster, ClusterConfig) for name, cluster in given.items()}


@attrs.frozen
class ResourceConfig:
    """Say where a workflow runs: ``cluster_configs`` by the endpoint's name.

    ``bridge_url`` and ``bridge_cert`` are kept for programs that read them; a run uses the
    endpoint's own link.
    """

    name: str = "default"
    bridge_url: str = "https://localhost:8000"
    bridge_cert: str | None = None
    cluster_configs: dict[Name, ClusterConfig] = attrs.field(
        factory=dict, converter=_clusters, validator=rules.names
    )


@attrs.frozen
class TaskTemplate:
    """Describe a RHAPSODY task whose texts have ``{placeholders}`` (see `templates`)."""

    executable: str
    arguments: list[str] = attrs.field(factory=list)
    task_backend_specific_kwargs: dict[str, Any] = attrs.field(factory=dict)


def _task(given: TaskTemplate | Mapping[str, Any] | None) -> TaskTemplate | None:
    return None if given is None else _made(given, TaskTemplate)


def _tasks(
    given: Mapping[str, TaskTemplate | Mapping[str, Any]],
) -> dict[str, TaskTemplate]:
    return {name: _made(task, TaskTemplate) for name, task in given.items()}


@attrs.frozen
class FieldMap:
    """Say which of a record's values, counted from 0, is which; without ``windavg``: the speed."""

    windspeed: int = attrs.field(validator=rules.within(0, 999))
    winddir: int = attrs.field(validator=rules.within(0, 999))
    windavg: int | None = attrs.field(default=None, validator=rules.within(0, 999))


def _cups_fields() -> FieldMap:
    return FieldMap(windspeed=0, winddir=2, windavg=1)


@attrs.frozen
class SensorSource:
    """Say what a sensor's log holds: values separated by ``:``.

    Speeds are in ``speed_unit``, directions in degrees. ``limit`` is how many records are read,
    the newest first (None: the workflow's ``cspot_limit``). The newest may be ``max_age`` seconds
    old (None: any age).
    """

    url: str = attrs.field(default=CUPS_WOOF, validator=rules.log_url)
    fields: FieldMap = attrs.field(factory=_cups_fields)
    speed_unit: SpeedUnit = "mph"
    limit: int | None = attrs.field(default=None, validator=rules.within(1, MANY))
    max_age: float | None = attrs.field(default=None, validator=rules.within(0, 100 * YEAR))


@attrs.frozen
class Timeouts:
    """Bound what is waited for, in seconds.

    ``connect`` is for an immediate cluster at the start, ``away`` for a cluster that goes away
    later; ``read`` for one call of ``senspot-get``, ``acquisition`` for all of them; ``staging``
    for one file; ``simulation``, ``training`` and ``evaluation`` for one task. ``pilot`` is how
    long training waits, after the last simulation, for a pilot that is still queued; 0 trains at
    once where the simulations ran. ``replacement`` is how long a run waits for the pilot that
    replaces the one at which it worked.
    """

    connect: float = attrs.field(default=60.0, validator=rules.within(0, YEAR))
    away: float = attrs.field(default=600.0, validator=rules.within(0, YEAR))
    read: float = attrs.field(default=30.0, validator=rules.within(0.1, YEAR))
    acquisition: float = attrs.field(default=300.0, validator=rules.within(0.1, YEAR))
    staging: float = attrs.field(default=3600.0, validator=rules.within(1, YEAR))
    simulation: float = attrs.field(default=6 * 3600.0, validator=rules.within(1, YEAR))
    pilot: float = attrs.field(default=0.0, validator=rules.within(0, YEAR))
    replacement: float = attrs.field(default=24 * 3600.0, validator=rules.within(0, YEAR))
    training: float = attrs.field(default=24 * 3600.0, validator=rules.within(1, YEAR))
    evaluation: float = attrs.field(default=6 * 3600.0, validator=rules.within(1, YEAR))


@attrs.frozen
class Continuous:
    """Say when a workflow runs again after its first run.

    ``trigger`` is ``new-data`` (a sensor has a new record), ``change`` (the newest wind is
    ``speed_change`` m/s or ``direction_change`` degrees off that of the last run) or ``timer``;
    sensors are looked at, and the timer fires, every ``interval`` seconds. A trigger that fires
    while a run goes on is forgotten (``skip``), waits (``queue``, at most ``queue_limit``, then
    the oldest is forgotten) or stops that run (``replace``). ``max_runs`` 0 goes on until it is
    stopped.
    """

    trigger: Literal["new-data", "change", "timer"] = "new-data"
    interval: float = attrs.field(default=300.0, validator=rules.within(0.1, YEAR))
    speed_change: float = attrs.field(default=2.0, validator=rules.within(0, 100))
    direction_change: float = attrs.field(default=30.0, validator=rules.within(0, 180))
    overlap: Literal["skip", "queue", "replace"] = "skip"
    queue_limit: int = attrs.field(default=1, validator=rules.within(1, 1000))
    max_runs: int = attrs.field(default=0, validator=rules.within(0, 2**53))


@attrs.frozen
class WorkflowConfig:
    """Describe a workflow.

    Winds come from ``replay``, a CSV file at the endpoint (a relative path begins in the work
    directory), else are made up if ``mock_sensor_data``, else are read from ``sources``, without
    which ``cspot_woof_url`` is the only one. ``cspot_limit`` is the records of each source.
    ``num_simulations`` run ``batch_size`` at a time; then ``train_models`` are trained in that
    order, each by its task of ``training_tasks``.

    With ``migrate`` = ``after-batch``, the simulations that run when a pilot begins are let finish;
    with ``abort`` they are given up and run there. A pilot that ends at its work is replaced,
    unless its job was cancelled: a run has ``pilot_tries`` pilots at most, one after the other.
    """

    name: str = "default"
    description: str = ""
    local_workspace: str = "/tmp/xgfabric_workspace"
    cspot_woof_url: str = attrs.field(default=CUPS_WOOF, validator=rules.log_url)
    cspot_limit: int = whole(10, validator=rules.within(1, MANY))
    num_simulations: int = whole(16, validator=rules.within(1, MANY))
    batch_size: int = whole(4, validator=rules.within(1, MANY))
    train_models: list[Name] = attrs.field(
        factory=lambda: ["pcr", "pinn", "fno"], validator=rules.names
    )
    simulation_task: TaskTemplate | None = attrs.field(default=None, converter=_task)
    training_tasks: dict[Name, TaskTemplate] = attrs.field(
        factory=dict, converter=_tasks, validator=rules.names
    )
    evaluation_task: TaskTemplate | None = attrs.field(default=None, converter=_task)
    mock_sensor_data: bool = False
    sources: list[SensorSource] = attrs.field(factory=list)
    replay: str | None = None
    migrate: Literal["after-batch", "abort"] = "after-batch"
    pilot_tries: int = attrs.field(default=3, validator=rules.within(1, 100))
    timeouts: Timeouts = attrs.field(factory=Timeouts)
    continuous: Continuous | None = None


def config_to_dict(config: WorkflowConfig | ResourceConfig) -> dict[str, Any]:
    """Return a configuration as JSON data."""
    data: dict[str, Any] = written(config)
    return data


def dict_to_config(data: object, where: str = "workflow") -> WorkflowConfig:
    """Return the workflow that JSON data describe; unknown fields are ignored.

    ``cspot_limit``, ``num_simulations`` and ``batch_size`` may be given as text.

    Raises InvalidConfig, naming ``where`` and every fault with its path.
    """
    return read(data, WorkflowConfig, where)


def dict_to_resource_config(data: object, where: str = "resource") -> ResourceConfig:
    """Return the resources that JSON data describe; unknown fields are ignored.

    ``broker_url`` and ``broker_cert``, as older files have, are read where the new names are not.

    Raises InvalidConfig, naming ``where`` and every fault with its path.
    """
    if isinstance(data, Mapping):
        old = {f"bridge_{key}": data.get(f"broker_{key}") for key in ("url", "cert")}
        data = {**{key: value for key, value in old.items() if value is not None}, **data}
    return read(data, ResourceConfig, where)
