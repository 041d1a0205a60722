"""Name the values that are on disk of a run: what it needs to go on after any restart."""

from typing import Any, Literal

import attrs

from .report import Span
from .states import Status, WorkflowState

SimulationState = Literal["waiting", "done", "failed"]


@attrs.frozen(kw_only=True)
class Workspace:
    """Say where a run's files are at one cluster, in absolute paths.

    ``programs`` is the directory of the workflow's programs, ``run`` that of this run, with
    ``data``, ``simulations``, ``models``, ``evaluation`` and ``notes`` in it.
    """

    programs: str
    run: str

    @property
    def sensor_file(self) -> str:
        """Return where the sensor data is."""
        return f"{self.run}/data/sensor_out.csv"

    def folder(self, name: str) -> str:
        """Return one of the run's directories."""
        return f"{self.run}/{name}"


FOLDERS = ("data", "simulations", "models", "evaluation", "notes")
"""The directories of a run at each cluster."""


@attrs.frozen(kw_only=True)
class PilotRecord:
    """Keep a pilot: the cluster that it belongs to and the endpoint that it is.

    ``submitted``, ``landed`` and ``left_queue`` are seconds since the epoch; ``reason`` is why the
    run has it no more. ``before`` is how many tasks of the run had ended when it landed.
    """

    cluster: str
    endpoint: str
    job_id: str
    submitted: float
    landed: float | None = None
    left_queue: float | None = None
    before: int = 0
    reason: str | None = None


@attrs.frozen(kw_only=True)
class SimulationRecord:
    """Keep one simulation: what it simulates, how it ended, and which cluster has its output."""

    number: int
    wind_speed: float
    wind_direction: float
    state: SimulationState = "waiting"
    cluster: str | None = None

    @property
    def output(self) -> str:
        """Return the name of its output file."""
        return f"sim_{self.number}_ws_{self.wind_speed:g}_wd_{self.wind_direction:g}.csv"

    @property
    def is_over(self) -> bool:
        """Tell whether it needs no more running."""
        return self.state != "waiting"


@attrs.frozen
class Verdict:
    """Say how a run is to end, once what it has left running is cleared away."""

    status: Status
    message: str
    error: str | None = None


@attrs.frozen(kw_only=True)
class RunRecord:
    """Keep one run, which belongs to a ``holder``.

    ``workflow`` and ``resource`` are the configurations as they were when it began, ``workdir`` its
    work directory. ``immediate`` and ``allocate`` name the clusters that it uses, ``is_migrating``
    says that it leaves the first for the second. ``lost_pilots`` are those that ``pilot`` replaces,
    or its next one if that is None. ``finished`` names the steps that need no
    repetition. ``spans`` are over; ``current`` is the phase that is not. ``began`` and ``ended``
    are seconds since the epoch; ``is_clear`` says that nothing of it is left running.
    """

    run_id: str
    holder: str
    workflow: dict[str, Any]
    resource: dict[str, Any]
    workdir: str
    began: float
    state: WorkflowState
    immediate: str | None = None
    allocate: str | None = None
    workspaces: dict[str, Workspace] = attrs.field(factory=dict)
    pilot: PilotRecord | None = None
    lost_pilots: list[PilotRecord] = attrs.field(factory=list)
    is_migrating: bool = False
    finished: list[str] = attrs.field(factory=list)
    spans: list[Span] = attrs.field(factory=list)
    current: Span | None = None
    verdict: Verdict | None = None
    ended: float | None = None
    is_clear: bool = False
