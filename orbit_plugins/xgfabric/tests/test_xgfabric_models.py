import json
import math
import tomllib
from contextlib import suppress
from typing import Any, get_args, get_origin

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from orbit_xgfabric import (
    ClusterConfig,
    ClusterStatus,
    Continuous,
    FieldMap,
    InvalidConfig,
    LogEntry,
    ResourceConfig,
    SensorSource,
    TaskTemplate,
    Timeouts,
    WorkflowConfig,
    WorkflowState,
    config_to_dict,
    dict_to_config,
    dict_to_resource_config,
)
from orbit_xgfabric.configs import ConfigFolder
from orbit_xgfabric.documents import parse
from orbit_xgfabric.states import LOG_LENGTH

from orbit_core.errors import OrbitError

thorough = settings(max_examples=max(500, settings().max_examples))
"""What is tried in CI; the nightly profile asks for more."""

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.text("abXY09_-", max_size=8).map("n{}".format)
urls = st.tuples(st.sampled_from(["woof://", "http://", "https://", ""]), names).map("".join)
numbers = st.floats(allow_nan=False, allow_infinity=False)
free = st.recursive(
    st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
options = st.dictionaries(texts, free, max_size=3)
tasks = st.builds(
    TaskTemplate,
    executable=texts,
    arguments=st.lists(texts, max_size=4),
    task_backend_specific_kwargs=options,
)
sources = st.builds(
    SensorSource,
    url=urls,
    fields=st.builds(
        FieldMap,
        windspeed=st.integers(0, 999),
        windavg=st.none() | st.integers(0, 999),
        winddir=st.integers(0, 999),
    ),
    speed_unit=st.sampled_from(["m/s", "mph", "km/h", "kn"]),
    limit=st.none() | st.integers(1, 100_000),
    max_age=st.none() | st.floats(0, 1e9),
)
seconds = st.floats(1, 1e7)
timeouts = st.builds(Timeouts, **{field.name: seconds for field in attrs.fields(Timeouts)})
continuous = st.builds(
    Continuous,
    trigger=st.sampled_from(["new-data", "change", "timer"]),
    interval=seconds,
    speed_change=st.floats(0, 100),
    direction_change=st.floats(0, 180),
    overlap=st.sampled_from(["skip", "queue", "replace"]),
    queue_limit=st.integers(1, 1000),
    max_runs=st.integers(0, 2**53),
)
counts = st.integers(1, 100_000)
workflows = st.builds(
    WorkflowConfig,
    name=names,
    description=texts,
    local_workspace=texts,
    cspot_woof_url=urls,
    cspot_limit=counts,
    num_simulations=counts,
    batch_size=counts,
    train_models=st.lists(names, max_size=4),
    simulation_task=st.none() | tasks,
    training_tasks=st.dictionaries(names, tasks, max_size=3),
    evaluation_task=st.none() | tasks,
    mock_sensor_data=st.booleans(),
    sources=st.lists(sources, max_size=3),
    replay=st.none() | texts,
    migrate=st.sampled_from(["after-batch", "abort"]),
    timeouts=timeouts,
    continuous=st.none() | continuous,
)
clusters = st.builds(
    ClusterConfig,
    queue=st.none() | texts,
    account=st.none() | texts,
    duration=seconds,
    nodes=counts,
    executor=st.none() | texts,
    workflow_path=st.none() | texts,
    custom_attributes=options,
    cluster_type=st.sampled_from([None, "immediate", "allocate"]),
    tunnel=st.sampled_from(["none", "proxy", "relay", "forward", "reverse", "auto"]),
    backends=st.none() | st.lists(texts, max_size=3),
)
resources = st.builds(
    ResourceConfig,
    name=names,
    bridge_url=texts,
    bridge_cert=st.none() | texts,
    cluster_configs=st.dictionaries(names, clusters, max_size=3),
)
json_data: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def read(data: object) -> WorkflowConfig | ResourceConfig:
    is_resource = isinstance(data, dict) and "cluster_configs" in data
    return dict_to_resource_config(data) if is_resource else dict_to_config(data)


def toml(value: Any) -> str:
    """Return a value as TOML has it; None has no form there, and is left out."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            members = (f"{toml(k)} = {toml(v)}" for k, v in value.items() if v is not None)
            return f"{{{', '.join(members)}}}"
        case _:
            return repr(value)


@thorough
@given(config=workflows | resources)
def test_a_configuration_comes_back_from_its_data_and_from_files(
    config: WorkflowConfig | ResourceConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = config_to_dict(config)
    assert read(data) == config

    assert read(json.loads(json.dumps(data, allow_nan=False))) == config

    folder = ConfigFolder(tmp_path_factory.getbasetemp())
    saved = folder.save({**data, "name": f"x{config.name}"})
    assert folder.load(saved) == attrs.evolve(config, name=saved)

    text = "\n".join(f"{key} = {toml(value)}" for key, value in data.items() if value is not None)
    assert read(parse(text.encode(), ".toml", "here")) == config


def values_near(kind: Any) -> st.SearchStrategy[Any]:
    """Return data that resemble a class, so that a fault can be anywhere in them."""
    if attrs.has(kind):
        fields = {field.name: values_near(field.type) for field in attrs.fields(kind)}
        return json_data | st.fixed_dictionaries({}, optional=fields)
    inner = [values_near(member) for member in get_args(kind) if not isinstance(member, str)]
    if get_origin(kind) is list:
        return json_data | st.lists(inner[0], max_size=3)
    if get_origin(kind) is dict:
        return json_data | st.dictionaries(texts | st.integers(), inner[1], max_size=3)
    return st.one_of(json_data, *inner)


@thorough
@given(data=values_near(WorkflowConfig) | values_near(ResourceConfig) | json_data)
@example(data={"num_simulations": 10**5000})
@example(data={"num_simulations": "9" * 5000})
@example(data={"timeouts": {"read": 10**400}})
@example(data={"training_tasks": {10**5000: {}}})
@example(data={"cspot_woof_url": "\0"})
def test_no_data_raise_anything_but_the_documented_error(data: Any) -> None:
    for function in (dict_to_config, dict_to_resource_config):
        with suppress(InvalidConfig):
            function(data)


@thorough
@given(content=st.binary(max_size=80), suffix=st.sampled_from([".json", ".toml"]))
def test_no_file_raises_anything_but_the_documented_error(content: bytes, suffix: str) -> None:
    with suppress(InvalidConfig):
        parse(content, suffix, "here")


def test_the_documented_defaults_hold() -> None:
    config = WorkflowConfig()

    assert config.name == "default"
    assert config.description == ""
    assert config.local_workspace == "/tmp/xgfabric_workspace"
    assert config.cspot_woof_url == "woof://128.111.45.61/davisstations/daviscupsout"
    assert (config.cspot_limit, config.num_simulations, config.batch_size) == (10, 16, 4)
    assert config.train_models == ["pcr", "pinn", "fno"]
    assert (config.simulation_task, config.evaluation_task) == (None, None)
    assert config.training_tasks == {}
    assert config.mock_sensor_data is False
    assert attrs.asdict(ResourceConfig()) == {
        "name": "default",
        "bridge_url": "https://localhost:8000",
        "bridge_cert": None,
        "cluster_configs": {},
    }


def test_a_cluster_has_the_documented_fields() -> None:
    status = ClusterStatus("a", "a.1", "allocate")

    assert (status.has_gpu, status.online, status.tasks_running) == (False, False, 0)
    assert (status.pilot_job_id, status.pilot_status) == (None, None)


def test_unknown_fields_are_ignored() -> None:
    assert dict_to_config({"colour": "red", "timeouts": {"tea": 5}}) == WorkflowConfig()
    assert dict_to_resource_config({"colour": {}}) == ResourceConfig()


@pytest.mark.parametrize("field", ["cspot_limit", "num_simulations", "batch_size"])
def test_counts_may_be_text(field: str) -> None:
    assert getattr(dict_to_config({field: " 12 "}), field) == 12


@pytest.mark.parametrize("text", ["", "1.5", "twelve", "1_0", "١٢", "0x10", "-3", "0"])
def test_other_text_is_no_count(text: str) -> None:
    with pytest.raises(InvalidConfig, match="at batch_size"):
        dict_to_config({"batch_size": text})


def test_the_names_of_old_files_are_read() -> None:
    old = {"broker_url": "https://hub:1", "broker_cert": "c.pem"}

    assert dict_to_resource_config(old) == ResourceConfig(
        bridge_url="https://hub:1", bridge_cert="c.pem"
    )
    assert dict_to_resource_config({**old, "bridge_url": "https://new"}).bridge_url == "https://new"


def test_all_faults_are_told_at_once_with_their_places() -> None:
    data = {
        "name": 3,
        "batch_size": 0,
        "train_models": ["pcr", "../x"],
        "simulation_task": {"arguments": "abc"},
        "training_tasks": {"a/b": {"executable": "x", "arguments": [1]}},
        "mock_sensor_data": "false",
        "sources": [{"fields": {"windspeed": -1}}, 4],
        "migrate": "never",
        "timeouts": {"read": math.inf},
    }

    with pytest.raises(InvalidConfig) as raised:
        dict_to_config(data, "mine.json")

    places = sorted(fault.rpartition(" at ")[2] for fault in raised.value.faults)
    assert places == sorted([
        "name",
        "batch_size",
        "train_models[1]",
        "simulation_task.executable",
        "simulation_task.arguments",
        "training_tasks['a/b']",
        "training_tasks['a/b'].arguments[0]",
        "mock_sensor_data",
        "sources[0].fields.windspeed",
        "sources[0].fields.winddir",
        "sources[1]",
        "migrate",
        "timeouts.read",
    ])  # fmt: skip
    assert raised.value.detail.startswith("mine.json: ")
    assert (raised.value.status_code, raised.value.code) == (400, "invalid_config")


def test_the_error_comes_back_from_a_reply() -> None:
    error = OrbitError.from_reply(400, "invalid_config", "workflow: x")

    assert isinstance(error, InvalidConfig)
    assert error.faults == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_simulations": 0},
        {"train_models": ["a/b"]},
        {"training_tasks": {"": {"executable": "x"}}},
        {"cspot_woof_url": "ftp://x"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_program_cannot_make_what_could_not_be_read(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|valid name"):
        WorkflowConfig(**wrong)


def test_a_program_may_give_tasks_and_clusters_as_dicts() -> None:
    config = WorkflowConfig(
        simulation_task={"executable": "run"}, training_tasks={"pcr": {"executable": "train"}}
    )
    resource = ResourceConfig(cluster_configs={"anvil": {"nodes": 2}})

    assert config.simulation_task == TaskTemplate("run")
    assert config.training_tasks == {"pcr": TaskTemplate("train")}
    assert resource.cluster_configs == {"anvil": ClusterConfig(nodes=2)}
    with pytest.raises(InvalidConfig, match="executable"):
        WorkflowConfig(evaluation_task={})


@pytest.mark.parametrize(
    "url",
    ["woof://h/p/n", "woof://h:50000/p", "http://h/x", "https://h/x", "daviscupsout", "/a/b"],
)
def test_the_documented_schemes_of_logs_are_accepted(url: str) -> None:
    assert SensorSource(url).url == url


@pytest.mark.parametrize("url", ["", "-S", "ftp://h/x", "woof://", "woof://h/a b", "woof://h/\n"])
def test_other_addresses_of_logs_are_refused(url: str) -> None:
    with pytest.raises(InvalidConfig, match="at cspot_woof_url"):
        dict_to_config({"cspot_woof_url": url})


def test_what_is_nested_too_deeply_is_refused() -> None:
    deep: Any = []
    for _ in range(50):
        deep = [deep]

    with pytest.raises(InvalidConfig, match="nested"):
        dict_to_resource_config({"cluster_configs": {"a": {"custom_attributes": {"x": deep}}}})


def test_what_json_does_not_have_is_refused_though_toml_has_it() -> None:
    data = tomllib.loads("[cluster_configs.a.custom_attributes]\nwhen = 2026-01-01")

    with pytest.raises(InvalidConfig, match="expected JSON data, got date at"):
        dict_to_resource_config(data)


def test_the_log_has_the_newest_first_and_a_bound() -> None:
    state = WorkflowState()
    for number in range(LOG_LENGTH + 5):
        state = state.logged(LogEntry("12:00:00", "info", str(number)))

    assert len(state.log) == LOG_LENGTH == 50
    assert [entry.message for entry in state.log[:2]] == ["54", "53"]


def test_a_new_state_is_idle() -> None:
    state = WorkflowState()

    assert (state.status, state.progress, state.log) == ("idle", 0, [])
