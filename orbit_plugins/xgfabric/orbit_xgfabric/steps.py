"""Train the models and evaluate them, where the simulations' results are."""

from functools import partial

from .programs import run_step, task_of
from .run import Run

TRAINING, TRAINED, EVALUATED = 60.0, 85.0, 100.0
"""Per cent of the run at the first model, after the last, and after the evaluation."""


async def train(run: Run) -> None:
    """Train each model in turn. Raises StepFailed, ClusterLost."""
    models = run.workflow.train_models
    for number, model in enumerate(models):
        progress = TRAINING + (TRAINED - TRAINING) * number / len(models)
        message = f"training {model}, {number + 1} of {len(models)}, at {run.runs_at}"
        await run.enter("training", progress, message, run.active)
        await run.change({"progress": progress, "message": message})
        if f"training {model}" not in run.record.finished:
            await _train(run, model)
            await run.finish(f"training {model}")


async def _train(run: Run, model: str) -> None:
    folder = run.workspace.folder("models")
    values = {"model": model, "models_dir": folder, "output_dir": f"{folder}/{model}"}
    files = await run.site.files(run.active)
    await run.site.ask(run.active, partial(files.mkdir, values["output_dir"]))
    template, timeout = run.workflow.training_tasks[model], run.workflow.timeouts.training
    await run_step(run, "training", task_of(run, f"train-{model}", template, timeout, values))


async def evaluate(run: Run) -> None:
    """Evaluate the models, if there is something that does. Raises StepFailed, ClusterLost."""
    template = run.workflow.evaluation_task
    if template is None:
        await run.log("info", "there is no evaluation_task: the run ends with the training")
        return
    await run.enter("evaluation", 90.0, f"evaluating at {run.runs_at}", run.active)
    space = run.workspace
    values = {"models_dir": space.folder("models"), "eval_output": space.folder("evaluation")}
    timeout = run.workflow.timeouts.evaluation
    await run_step(run, "evaluation", task_of(run, "evaluate", template, timeout, values))
