"""Make tasks of the workflow's templates, and run one to its end."""

import time
from functools import partial
from typing import Any

from .failures import StepFailed
from .models import TaskTemplate
from .pilot_ends import watch_pilot
from .pilots import expect_end
from .report import Span
from .run import Run
from .tasks import Ending, Runner, Task
from .templates import fill


async def runner(run: Run, cluster: str | None = None) -> Runner:
    """Return what runs tasks where the run works now, or at another cluster."""
    endpoint = run.runs_at if cluster is None else cluster
    at = cluster or run.active
    if endpoint != at:
        run.site.watches[endpoint] = watch_pilot(run)
    client = await run.site.tasks(endpoint, run.cluster(at).backends)
    doubt = partial(expect_end, run) if endpoint != at else None
    count = partial(run.count_tasks, at)
    return Runner(run.site, endpoint, client, run.run_id, count, doubt)


async def release_tasks(run: Run, cluster: str) -> None:
    """End the run's tasks at its immediate cluster."""
    await run.site.release(cluster, "rhapsody", run.site.run_sid)


def task_of(
    run: Run, name: str, template: TaskTemplate, timeout: float, values: dict[str, Any]
) -> Task:
    """Return the task that a template describes at the active cluster.

    ``values`` are the placeholders beside those that every template may use.
    """
    space = run.workspace
    filled = fill(
        template,
        {
            "workflow_path": space.programs,
            "workspace": space.run,
            "sensor_dir": space.folder("data"),
            "sensor_file": space.sensor_file,
            "simulations_dir": space.folder("simulations"),
            **values,
        },
    )
    options = {"cwd": space.run, "timeout": timeout, **filled.task_backend_specific_kwargs}
    note = f"{space.folder('notes')}/{name}"
    return Task(name, filled.executable, list(filled.arguments), note, options)


def task_span(run: Run, phase: str, name: str, ending: Ending) -> Span:
    """Return how long a task ran, by the clock of where it ran."""
    ended = ending.ended or time.time()
    return Span(phase, run.active, ending.began or ended, ended, "task", name)


async def run_step(run: Run, phase: str, task: Task) -> None:
    """Run one task, on which the run depends. Raises StepFailed, ClusterLost."""
    endings: list[Ending] = []

    async def note(_: Task, ending: Ending) -> None:
        endings.append(ending)
        await run.add_span(task_span(run, phase, task.name, ending))

    await (await runner(run)).run([task], note)
    (ending,) = endings
    if not ending.succeeded:
        raise StepFailed(f"{task.name} failed at {run.runs_at}: {ending.words}")
