"""Which pilots that ended are replaced, and how one that does not answer is called."""

import attrs
import pytest
from orbit_xgfabric.failures import ClusterLost
from orbit_xgfabric.models import ResourceConfig, WorkflowConfig
from orbit_xgfabric.pilot_ends import PilotEnd, objection
from orbit_xgfabric.plans import Plan
from orbit_xgfabric.reach import Watch, patiently
from orbit_xgfabric.records import PilotRecord, RunRecord
from orbit_xgfabric.report import Span

from orbit_core.errors import Unavailable

PILOT = PilotRecord(cluster="big", endpoint="big.xgf-1", job_id="1", submitted=0.0, landed=1.0)
TASK = Span("simulations", "big", 1.0, 2.0, "task", "sim-0")


def record(ended: int, lost: int) -> RunRecord:
    """Return the record of a run of which tasks have ended, and pilots were lost before."""
    found = Plan(WorkflowConfig(), ResourceConfig(), "/", "default").record("holder")
    return attrs.evolve(found, spans=[TASK] * ended, lost_pilots=[PILOT] * lost)


@pytest.mark.parametrize("cause", ["node_failure", "preemption", "signal", "out_of_memory", None])
def test_a_pilot_that_ended_is_replaced_up_to_a_number(cause: str | None) -> None:
    end = PilotEnd("it is over", cause)
    assert objection(record(0, 1), PILOT, end, 3) is None
    why = "no other one is submitted, since pilot_tries is 3"
    assert objection(record(0, 2), PILOT, end, 3) == why


def test_a_pilot_that_was_cancelled_is_not_replaced() -> None:
    why = objection(record(1, 0), PILOT, PilotEnd("cancelled", "cancelled"), 3)
    assert why == "a pilot whose job was cancelled is not replaced"


def test_a_pilot_that_used_its_walltime_up_is_replaced_if_a_task_of_its_ended() -> None:
    end = PilotEnd("ran longer than its walltime", "walltime")
    assert objection(record(1, 0), PILOT, end, 3) is None
    why = objection(record(0, 0), PILOT, end, 3)
    assert why == "no task ended within its walltime, so ask for a longer duration"


@pytest.mark.anyio
async def test_a_pilot_that_does_not_answer_though_its_job_runs_is_named() -> None:
    async def ask() -> None:
        raise Unavailable("it is not connected")

    async def job_runs() -> None:
        pass

    watch = Watch("pilot big.xgf-1, job 17 of big,", job_runs)
    told = "pilot big.xgf-1, job 17 of big, has been away for 0 s: it is not connected"
    with pytest.raises(ClusterLost, match=told):
        await patiently("big.xgf-1", ask, 0.0, watch)
