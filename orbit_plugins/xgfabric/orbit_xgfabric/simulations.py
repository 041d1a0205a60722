"""Run the simulations, batch by batch, first at the immediate cluster and then at the pilot."""

import math
from collections.abc import Sequence

import attrs

from .failures import SimulationsFailed
from .migration import migrate
from .pilots import must_migrate, needs_pilot, note_pilot
from .programs import runner, task_of, task_span
from .records import SimulationRecord, SimulationState
from .run import Run
from .tasks import Ending, Task

BEGIN, END = 15.0, 45.0
"""Per cent of the run at the first simulation, and after the last."""


async def simulate(run: Run) -> None:
    """Run every simulation that is not over; one that fails keeps nobody.

    Raises SimulationsFailed if none succeeds, and ClusterLost.
    """
    await _report(run)
    while waiting := unfinished(run):
        if must_migrate(run):
            await migrate(run, [simulation_task(run, one) for one in waiting], note_end)
            continue
        await run.enter("simulations", _progress(run), _message(run), run.active)
        await _run_batch(run, waiting[: run.workflow.batch_size])
    if not any(one.state == "done" for one in run.simulations.values()):
        raise SimulationsFailed(
            f"all {len(run.simulations)} simulations failed: the log has the last words of each"
        )


def unfinished(run: Run) -> list[SimulationRecord]:
    """Return the simulations that are not over, in their order."""
    return [one for _, one in sorted(run.simulations.items()) if not one.is_over]


def simulation_task(run: Run, one: SimulationRecord) -> Task:
    """Return what one simulation runs at the active cluster."""
    template = run.workflow.simulation_task
    assert template is not None  # checked before the run began
    folder = run.workspace.folder("simulations")
    values = {
        "sim_id": one.number,
        "wind_speed": f"{one.wind_speed:g}",
        "wind_dir": f"{one.wind_direction:g}",
        "sim_output_dir": folder,
        "sim_output_file": f"{folder}/{one.output}",
    }
    timeout = run.workflow.timeouts.simulation
    return task_of(run, _name(one), template, timeout, values)


async def _run_batch(run: Run, batch: Sequence[SimulationRecord]) -> None:
    async def goes_on() -> bool:
        if needs_pilot(run):  # whose end shows where its tasks are asked for
            return True
        await note_pilot(run)
        return run.workflow.migrate != "abort" or not must_migrate(run)

    async def note(task: Task, ending: Ending) -> None:
        await note_end(run, task, ending)

    await (await runner(run)).run([simulation_task(run, one) for one in batch], note, goes_on)


async def note_end(run: Run, task: Task, ending: Ending) -> None:
    """Note how a simulation ended, before anything else may go wrong."""
    one = next(one for one in run.simulations.values() if _name(one) == task.name)
    state: SimulationState = "done" if ending.succeeded else "failed"
    await run.keep_simulations([attrs.evolve(one, state=state, cluster=run.active)])
    await run.add_span(task_span(run, "simulations", task.name, ending))
    if not ending.succeeded:
        await run.log("error", f"{task.name} failed at {run.runs_at}: {ending.words}")
    await _report(run)


async def _report(run: Run) -> None:
    """Bring the counts of the state up to date."""
    size = run.workflow.batch_size
    total, over = len(run.simulations), len(run.simulations) - len(unfinished(run))
    batches = math.ceil(total / size)
    await run.change(
        {
            "completed_simulations": sum(one.state == "done" for one in run.simulations.values()),
            "total_simulations": total,
            "current_batch": min(batches, over // size + 1),
            "total_batches": batches,
            "progress": _progress(run),
            "message": _message(run),
        }
    )


def _progress(run: Run) -> float:
    over = len(run.simulations) - len(unfinished(run))
    return BEGIN + (END - BEGIN) * over / len(run.simulations)


def _message(run: Run) -> str:
    over = len(run.simulations) - len(unfinished(run))
    return f"{over} of {len(run.simulations)} simulations are over, at {run.runs_at}"


def _name(one: SimulationRecord) -> str:
    return f"sim-{one.number}"
