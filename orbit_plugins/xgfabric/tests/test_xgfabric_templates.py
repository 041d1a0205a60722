from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_xgfabric import InvalidConfig, TaskTemplate, WorkflowConfig
from orbit_xgfabric.builtins import RESOURCES, WORKFLOWS, canonical
from orbit_xgfabric.templates import (
    EVALUATION,
    EVERYWHERE,
    SIMULATION,
    TRAINING,
    check_workflow,
    faults_of,
    fill,
)


def test_placeholders_are_replaced_wherever_texts_are() -> None:
    template = TaskTemplate(
        "{workflow_path}/run",
        ["{wind_speed}", "-{sim_id}-", "plain"],
        {"cwd": "{workflow_path}", "env": {"A": ["{sim_id}", 3, None]}, "ranks": 2},
    )

    filled = fill(template, {"workflow_path": "/w", "wind_speed": 2.5, "sim_id": 0})

    assert filled == TaskTemplate(
        "/w/run", ["2.5", "-0-", "plain"], {"cwd": "/w", "env": {"A": ["0", 3, None]}, "ranks": 2}
    )


@given(text=st.text())
def test_text_with_doubled_braces_stays_as_it_is(text: str) -> None:
    text = text.replace("\0", "")
    doubled = text.replace("{", "{{").replace("}", "}}")

    assert fill(TaskTemplate(doubled), {}) == TaskTemplate(text)


def test_what_is_filled_in_is_not_filled_again() -> None:
    assert fill(TaskTemplate("{a}"), {"a": "{b}", "b": "no"}).executable == "{b}"


@pytest.mark.parametrize(
    "text",
    [
        "{a.__class__}",
        "{a[0]}",
        "{0}",
        "{}",
        "{a!r}",
        "{a:>9}",
        "{a:{b}}",
        "{b}",
        "{",
        "}",
        "{a",
        "\0",
    ],
)
def test_nothing_but_whole_known_names_is_filled(text: str) -> None:
    template = TaskTemplate("x", [], {"env": {"deep": [text]}})

    with pytest.raises(InvalidConfig) as raised:
        fill(template, {"a": "1"})

    assert len(raised.value.faults) == 1


@given(text=st.text(st.sampled_from("{}ab.[]!:0\0")))
def test_any_text_is_filled_or_refused(text: str) -> None:
    template = TaskTemplate(text)

    if not list(faults_of(template, {"a", "b"})):
        fill(template, {"a": 1, "b": 2})


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_the_workflows_that_are_built_in_can_run(name: str) -> None:
    check_workflow(WORKFLOWS[name])


def test_a_workflow_that_could_not_end_well_is_refused_with_all_reasons() -> None:
    task = TaskTemplate("{nowhere}", ["{eval_output}"])
    config = WorkflowConfig(
        name="mine",
        train_models=["pcr", "gnn"],
        training_tasks={"pcr": TaskTemplate("{model}", ["{wind_speed}"])},
        evaluation_task=task,
    )

    with pytest.raises(InvalidConfig) as raised:
        check_workflow(config)

    faults = raised.value.faults
    assert len(faults) == 4
    assert faults[0].startswith("simulation_task is missing")
    assert faults[1].startswith("model gnn of train_models has no task: add training_tasks.gnn")
    assert faults[2].startswith("unknown placeholder {wind_speed}")
    assert faults[2].endswith(" in training_tasks.pcr")
    assert faults[3].startswith("unknown placeholder {nowhere}")
    assert raised.value.detail.startswith("workflow mine: ")


@pytest.mark.parametrize(
    ("field", "names"),
    [("simulation_task", SIMULATION), ("evaluation_task", EVALUATION), ("training", TRAINING)],
)
def test_each_task_may_use_its_own_placeholders(field: str, names: dict[str, str]) -> None:
    task = TaskTemplate("x", [f"{{{name}}}" for name in (*EVERYWHERE, *names)])
    change: dict[str, Any] = {field: task}
    if field == "training":
        change = {"train_models": ["m"], "training_tasks": {"m": task}}

    check_workflow(attrs.evolve(WORKFLOWS["test"], **change))


def test_the_builtin_workflows_have_the_documented_values() -> None:
    default, test = WORKFLOWS["default"], WORKFLOWS["test"]

    assert (default.cspot_limit, default.num_simulations, default.batch_size) == (9, 16, 4)
    assert default.train_models == list(default.training_tasks) == ["pcr", "pinn", "fno"]
    assert default.simulation_task is not None
    assert default.simulation_task.executable == "{workflow_path}/simulation/runme.sh"
    assert default.simulation_task.arguments[1:] == [
        "32", "{wind_speed}", "0.0", "0.0", "{sim_output_dir}", "1 4 1", "{sim_id}", "{wind_dir}",
    ]  # fmt: skip
    assert default.evaluation_task == TaskTemplate(
        "python3", ["{workflow_path}/evaluation/evaluate.py", "{sensor_file}", "{eval_output}"]
    )
    assert (test.num_simulations, test.batch_size, test.train_models) == (4, 2, ["pcr"])
    assert test.mock_sensor_data


def test_the_builtin_resources_have_the_documented_values() -> None:
    clusters = RESOURCES["test"].cluster_configs

    assert RESOURCES["default"].cluster_configs == {}
    assert list(clusters) == ["anvil", "frontier", "ucsb"]
    assert (clusters["anvil"].queue, clusters["anvil"].account) == ("wholenode", "dmr140125")
    assert (clusters["frontier"].queue, clusters["frontier"].account) == ("batch", "fus183")
    for name in ("anvil", "frontier"):
        cluster = clusters[name]
        assert (cluster.duration, cluster.nodes, cluster.executor) == (600, 1, "slurm")
    assert {cluster.workflow_path for cluster in clusters.values()} == {"~/xgfabric/intheloop"}


@pytest.mark.parametrize(
    ("alias", "name"),
    [("__default__", "default"), ("__test__", "test"), ("test", "test"), ("__x__", "__x__")],
)
def test_aliases_stand_for_what_is_built_in(alias: str, name: str) -> None:
    assert canonical(alias) == name
