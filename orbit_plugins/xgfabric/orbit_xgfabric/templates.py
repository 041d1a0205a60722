"""Fill the ``{placeholders}`` of tasks. Only whole names are replaced: no attribute, no index.

A brace that shall stay one is written twice, as ``{{`` and ``}}``.
"""

import string
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

import attrs

from .errors import InvalidConfig
from .models import TaskTemplate, WorkflowConfig

EVERYWHERE = {
    "workflow_path": "where the workflow's programs are at the cluster that runs the task",
    "workspace": "the directory of the run there",
    "sensor_dir": "the directory of the wind data there",
    "sensor_file": "the wind data: CSV, `dt,windspeed,windavg,winddir`, m/s and degrees",
    "simulations_dir": "the directory of the simulations' results there",
}
"""What each placeholder that every task may have stands for."""

SIMULATION = {
    "sim_id": "the simulation's number, from 0",
    "wind_speed": "its wind speed in m/s",
    "wind_dir": "the direction that its wind comes from, in degrees",
    "sim_output_dir": "where its result goes, the same as `simulations_dir`",
    "sim_output_file": "its result: `sim_<sim_id>_ws_<wind_speed>_wd_<wind_dir>.csv` in there",
}
TRAINING = {
    "model": "the model's name",
    "output_dir": "the directory of this model",
    "models_dir": "the directory of all models",
}
EVALUATION = {
    "models_dir": "the directory of all models",
    "eval_output": "the directory of the evaluation's results",
}


def fill(template: TaskTemplate, values: Mapping[str, object]) -> TaskTemplate:
    """Return a task with each placeholder replaced by its value's text.

    Raises InvalidConfig with all faults, if `faults_of` finds some.
    """
    faults = list(faults_of(template, values.keys()))
    if faults:
        raise InvalidConfig.of("task", faults)
    return _mapped(template, partial(_filled, values))


def check_workflow(config: WorkflowConfig) -> None:
    """Refuse a workflow that could not run to its end.

    It has something to simulate, a task for each model, and no placeholder that nothing stands
    for. Raises InvalidConfig with all faults.
    """
    faults = list(_faults(config))
    if faults:
        raise InvalidConfig.of(f"workflow {config.name}", faults)


def _faults(config: WorkflowConfig) -> Iterator[str]:
    if config.simulation_task is None:
        yield "simulation_task is missing: nothing would be simulated"
    for model in config.train_models:
        if model not in config.training_tasks:
            known = ", ".join(config.training_tasks) or "none"
            yield (
                f"model {model} of train_models has no task: add training_tasks.{model}, "
                f"or train those that have one ({known})"
            )
    for place, task, names in _tasks(config):
        for fault in faults_of(task, EVERYWHERE.keys() | names.keys()):
            yield f"{fault} in {place}"


def _tasks(config: WorkflowConfig) -> Iterator[tuple[str, TaskTemplate, Mapping[str, str]]]:
    if config.simulation_task is not None:
        yield "simulation_task", config.simulation_task, SIMULATION
    for model, task in config.training_tasks.items():
        yield f"training_tasks.{model}", task, TRAINING
    if config.evaluation_task is not None:
        yield "evaluation_task", config.evaluation_task, EVALUATION


def uses(config: WorkflowConfig, placeholder: str) -> bool:
    """Tell whether a task of a workflow without faults has a placeholder that all may have."""
    known = EVERYWHERE.keys() - {placeholder}
    return any(
        True for _, task, names in _tasks(config) for _ in faults_of(task, known | names.keys())
    )


def faults_of(template: TaskTemplate, names: Collection[str]) -> Iterator[str]:
    """Iterate over what is wrong with a task of which ``names`` are the only placeholders."""
    texts: dict[str, None] = {}

    def collect(text: str) -> str:
        texts[text] = None
        return text

    _mapped(template, collect)
    for text in texts:
        yield from _text_faults(text, names)


def _text_faults(text: str, names: Collection[str]) -> Iterator[str]:
    if "\0" in text:
        yield f"a NUL character, which no program can be given, in {text[:40]!r}"
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        yield f"{str(error).lower()} in {text[:40]!r}: write {{{{ and }}}} for braces that stay"
        return
    for _, name, specification, conversion in parts:
        if name is not None and (specification or conversion or name not in names):
            shown = name + (f"!{conversion}" if conversion else "")
            shown += f":{specification}" if specification else ""
            yield (
                f"unknown placeholder {{{shown[:40]}}}: use one of {', '.join(sorted(names))}, or "
                "write {{ and }} for braces that stay"
            )


def _filled(values: Mapping[str, object], text: str) -> str:
    parts = string.Formatter().parse(text)
    return "".join(
        literal + ("" if name is None else str(values[name])) for literal, name, _, _ in parts
    )


def _mapped(template: TaskTemplate, change: Callable[[str], str]) -> TaskTemplate:
    """Return a task with each of its texts changed, but for the names of its options."""
    return attrs.evolve(
        template,
        executable=change(template.executable),
        arguments=[change(argument) for argument in template.arguments],
        task_backend_specific_kwargs=_mapped_data(template.task_backend_specific_kwargs, change),
    )


def _mapped_data(data: Any, change: Callable[[str], str]) -> Any:
    match data:
        case str():
            return change(data)
        case list():
            return [_mapped_data(member, change) for member in data]
        case dict():
            return {key: _mapped_data(member, change) for key, member in data.items()}
        case _:
            return data
