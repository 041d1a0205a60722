"""Go on at the pilot: take the results that there are to its cluster."""

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from .pilots import LOOK, dismiss_pilot, has_landed, may_land, must_migrate, note_pilot
from .programs import runner
from .records import SimulationRecord
from .run import Run
from .tasks import Ending, Task

BEGIN, END = 50.0, 60.0
"""Per cent of the run at the beginning and the end of a migration."""

Note = Callable[[Run, Task, Ending], Awaitable[None]]


async def migrate(run: Run, tasks: Sequence[Task], note: Note) -> None:
    """Give up what runs at the immediate cluster, copy the results, and have the pilot active.

    ``tasks`` are those that are not over; one that had ended meanwhile is told of. Raises
    ClusterLost, and what staging refuses.
    """
    source, target = run.immediate, run.record.allocate
    assert target is not None
    await run.change(is_migrating=True)
    await run.enter("migration", BEGIN, f"the run goes on at {target}", target)
    await (await runner(run, source)).give_up(tasks, partial(note, run))
    results = [one for _, one in sorted(run.simulations.items()) if one.state == "done"]
    await _copy(run, results, source, target)
    await run.change({"active_cluster": target, "progress": END})
    await run.log("info", f"{len(results)} results are at {target}, where the run goes on")


async def _copy(run: Run, results: list[SimulationRecord], source: str, target: str) -> None:
    """Copy what simulations wrote, straight from the one cluster to the other."""
    files, goal = await run.site.files(source), await run.site.files(target)
    places = [run.record.workspaces[name].folder("simulations") for name in (source, target)]
    listing = await run.site.ask(source, partial(files.list, places[0]))
    written = {entry["name"] for entry in listing["entries"] if entry["type"] == "file"}
    for one in results:
        if one.output not in written:
            await run.log("warning", f"simulation {one.number} wrote no {one.output}")
            continue
        here, there = (f"{place}/{one.output}" for place in places)
        copy = partial(files.copy, here, goal, there, overwrite=True)
        await run.site.move(target, copy, run.workflow.timeouts.staging)


async def settle(run: Run) -> None:
    """Decide where the run goes on after the last simulation, waiting for a pilot if so said.

    Raises ClusterLost, and what staging refuses.
    """
    if run.record.allocate is None or run.active == run.record.allocate:
        return
    await run.enter("migration_check", BEGIN, "the simulations are over", run.active)
    limit = run.workflow.timeouts.pilot
    give_up = time.monotonic() + limit
    await note_pilot(run)
    while may_land(run) and not must_migrate(run) and time.monotonic() < give_up:
        await run.fleet.until(partial(has_landed, run), LOOK)
        await note_pilot(run)
    if must_migrate(run):
        await migrate(run, [], _nothing_runs)
    elif may_land(run):
        waited = f"within {limit:g} s of the last simulation" if limit else "yet"
        await run.log("warning", f"the pilot has not landed {waited}: going on at {run.active}")
        await dismiss_pilot(run)


async def _nothing_runs(run: Run, task: Task, ending: Ending) -> None:
    """Hear of no task, since none is left."""
