from typing import Any

import pytest
from orbit_psij.models import JobSpec, Submission
from orbit_psij.offer import Offer
from orbit_psij.specs import STRING_LIMIT, TOTAL_LIMIT, check_spec, read_submission

from orbit_core.errors import InvalidBody

OFFERED = Offer()


def read(**spec: Any) -> JobSpec:
    return read_submission({"job_spec": {"executable": "/bin/true", **spec}}, OFFERED).job_spec


def faults_of(**spec: Any) -> list[str]:
    with pytest.raises(InvalidBody) as refused:
        read(**spec)
    return refused.value.detail.removeprefix("body: ").split("; ")


def test_a_job_needs_only_an_executable() -> None:
    body = {"job_spec": {"executable": "date"}}
    assert read_submission(body, OFFERED) == Submission(JobSpec("date"), "local")


def test_options_are_taken_from_wherever_users_write_them() -> None:
    spec = read(
        attributes={
            "node_count": 2,
            "project": "p1",
            "duration": "600",
            "slurm.constraint": "gpu&hbm80g",
            "custom_attributes": {"pbs.l": "x"},
        },
        custom_attributes={"slurm.qos": "high"},
        environment={"N": 4},
    )
    assert spec.resources.node_count == 2
    assert (spec.attributes.account, spec.attributes.duration) == ("p1", 600)
    assert spec.custom_attributes == {
        "slurm.qos": "high",
        "slurm.constraint": "gpu&hbm80g",
        "pbs.l": "x",
    }
    assert spec.environment == {"N": "4"}


def test_null_stands_for_an_absent_option() -> None:
    nulls = {"exclusive_node_use": None, "memory": None}
    assert read(arguments=None, attributes=None, resources=nulls) == JobSpec("/bin/true")


def test_a_whole_number_may_be_larger_than_any_float() -> None:
    assert read(custom_attributes={"a.b": 10**400}).custom_attributes == {"a.b": 10**400}


def test_every_fault_is_reported_at_once() -> None:
    with pytest.raises(InvalidBody) as refused:
        read_submission(
            {"executor": "slurm", "job_spec": {"name": 2, "foo": 1, "arguments": ["a", 1]}}, OFFERED
        )
    assert refused.value.detail == (
        "body: executor 'slurm' is not offered here: use local; "
        "job_spec: required field missing at executable; expected str, got int at arguments[1]; "
        "expected str, got int at name; unknown: foo"
    )


def test_every_value_that_cannot_be_used_is_reported_at_once() -> None:
    assert faults_of(executable="", name="a\nb", launcher="ssh") == [
        "job_spec.executable: must not be empty",
        "job_spec.launcher: 'ssh' is unknown, use one of "
        "single, multiple, mpirun, srun, aprun, jsrun",
        "job_spec.name: character U+000A is not allowed",
    ]


@pytest.mark.parametrize(
    "body", [{}, {"job_spec": None}, {"job_spec": []}, {"job_spec": "x"}], ids=str
)
def test_a_body_without_a_job_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidBody, match="job_spec: expected an object"):
        read_submission(body, OFFERED)


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({"executable": None}, ": required field missing at executable"),
        ({"executable": "-c"}, ".executable: must not begin with '-'"),
        ({"name": "a\nb"}, ".name: character U+000A is not allowed"),
        ({"directory": "/a\0b"}, ".directory: character U+0000 is not allowed"),
        ({"directory": 1.5}, ": expected str, got float at directory"),
        ({"directory": True}, ": expected str, got bool at directory"),
        ({"arguments": ["\0"]}, ".arguments[0]: character U+0000 is not allowed"),
        ({"arguments": ["\ud800"]}, ".arguments[0]: character U+D800 is not allowed"),
        ({"arguments": "-l"}, ": expected a list, got str at arguments"),
        ({"arguments": [None]}, ": expected str, got NoneType at arguments[0]"),
        ({"arguments": [{}]}, ": expected str, got dict at arguments[0]"),
        ({"environment": ["A=1"]}, ": expected an object at environment"),
        ({"environment": {"A B": "x"}}, ".environment: 'A B' is not a variable name"),
        ({"environment": {"A": "\x1b"}}, ".environment.A: character U+001B"),
        ({"environment": {"A": True}}, ": expected str, got bool at environment['A']"),
        ({"attributes": 3}, ": expected an object, got int at attributes"),
        ({"attributes": {"queue": "q"}}, ": unknown: queue at attributes"),
        ({"attributes": {"queue_name": "q\n#SBATCH"}}, ".attributes.queue_name: character"),
        ({"attributes": {"duration": "1h"}}, ": expected int, got str at attributes.duration"),
        ({"attributes": {"duration": -1}}, ".attributes.duration: must be 1 to"),
        ({"attributes": {"duration": 2**40}}, ".attributes.duration: must be 1 to"),
        (
            {"attributes": {"node_count": 2}, "resources": {"node_count": 3}},
            ".attributes.node_count: contradicts",
        ),
        ({"attributes": {"project": "a", "account": "b"}}, ".attributes.project: contradicts"),
        ({"resources": {"node_count": 0}}, ".resources.node_count: must be 1 to"),
        ({"resources": {"memory": 0}}, ".resources.memory: must be at least 1 byte"),
        ({"resources": {"nodes": 1}}, ": unknown: nodes at resources"),
        ({"resources": {"process_count": 3, "node_count": 2}}, ".resources: process_count"),
        ({"resources": [1], "attributes": {"node_count": 1}}, ": expected an object, got list"),
        (
            {"resources": {"process_count": 8, "node_count": 2, "processes_per_node": 2}},
            ".resources: process_count must be",
        ),
        ({"resources": {"process_count": 10**6}}, ".resources: a local job has at most"),
        ({"custom_attributes": {"a b": 1}}, ".custom_attributes: 'a b' is not a name"),
        ({"custom_attributes": {"a.b": "x\ny"}}, ".custom_attributes.a.b: character U+000A"),
        ({"custom_attributes": {"a": float("inf")}}, ": expected a finite number, got inf"),
        ({"custom_attributes": {"a": []}}, ": expected str | int | float | bool, got list"),
        ({"custom_attributes": 1}, ": expected an object at custom_attributes"),
        ({"stdin": "x", "stdin_path": "/y"}, ".stdin: give either"),
        ({"launcher": "ssh"}, ".launcher: 'ssh' is unknown, use one of single"),
    ],
    ids=str,
)  # fmt: skip
def test_a_fault_names_its_place(spec: dict[str, Any], fault: str) -> None:
    assert any(found.startswith(f"job_spec{fault}") for found in faults_of(**spec)), faults_of(
        **spec
    )


def test_a_local_job_may_have_lines_and_tabs_in_arguments_and_variables() -> None:
    spec = read(arguments=["a\n\tb"], environment={"A": "x\ny"})
    assert check_spec(spec, is_local=True) == []
    assert check_spec(spec, is_local=False) == [
        "job_spec.arguments[0]: character U+000A is not allowed",
        "job_spec.environment.A: character U+000A is not allowed",
    ]


def test_what_a_process_cannot_take_is_refused_before_it_is_tried() -> None:
    assert "over" in faults_of(arguments=["x" * (STRING_LIMIT + 1)])[0]
    assert "over" in faults_of(arguments=["x" * 100_000] * (TOTAL_LIMIT // 100_000 + 1))[0]
