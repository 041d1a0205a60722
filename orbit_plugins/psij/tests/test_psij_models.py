import itertools
import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_psij.models import (
    JobAttributes,
    JobRecord,
    JobResources,
    JobSpec,
    JobState,
)
from orbit_psij.specs import check_spec, read_spec

from orbit_core.values import as_model

PLAIN = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
LINES = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from("\n\t"), max_size=20
)
SCALARS = PLAIN | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
ATTRIBUTES = st.builds(
    JobAttributes,
    duration=st.none() | st.integers(1, 10**6),
    queue_name=st.none() | PLAIN,
    account=st.none() | PLAIN,
    reservation_id=st.none() | PLAIN,
)
RESOURCES = st.builds(
    JobResources,
    node_count=st.none() | st.integers(1, 90),
    processes_per_node=st.none() | st.integers(1, 90),
    gpu_cores_per_process=st.none() | st.integers(0, 8),
    exclusive_node_use=st.booleans(),
    memory=st.none() | st.integers(1),
)
SPECS = st.builds(
    JobSpec,
    executable=PLAIN.map(lambda text: "/" + text),
    arguments=st.lists(LINES, max_size=4),
    directory=st.none() | PLAIN,
    name=st.none() | PLAIN,
    environment=st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True), LINES),
    inherit_environment=st.booleans(),
    stdin=st.none() | st.text(),
    launcher=st.none() | st.sampled_from(["single", "multiple"]),
    resources=RESOURCES,
    attributes=ATTRIBUTES,
    custom_attributes=st.dictionaries(
        st.from_regex(r"[a-z]+\.[a-z-]+", fullmatch=True), SCALARS, max_size=3
    ),
)
RECORDS = st.builds(
    JobRecord,
    job_id=PLAIN,
    sid=PLAIN,
    executor=st.just("local"),
    spec=SPECS,
    created=st.floats(0, 1e10),
    changed=st.integers(0, 10**10),
    request_key=st.none() | st.text(),
    state=st.sampled_from(JobState),
    exit_code=st.none() | st.integers(0, 255),
    cancel_requested=st.booleans(),
)


KEYS = st.sampled_from(
    [
        *("executable", "arguments", "attributes", "environment", "resources", "duration"),
        *("node_count", "custom_attributes", "project", "a.b"),
    ]
) | st.text(max_size=3)
LEAVES = st.none() | st.booleans() | st.floats() | st.text()


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(attrs.asdict(value)))


@given(SPECS)
def test_a_job_spec_survives_json(spec: JobSpec) -> None:
    faults: list[str] = []
    assert read_spec(through_json(spec), faults) == spec
    assert faults + check_spec(spec, is_local=True) == []


@given(RECORDS)
def test_a_job_record_survives_json(record: JobRecord) -> None:
    assert as_model(through_json(record), JobRecord) == record


@given(st.recursive(LEAVES, _nested))
def test_whatever_is_sent_as_a_spec_is_read_or_refused(data: Any) -> None:
    faults: list[str] = []
    spec = read_spec(data, faults)
    assert faults or spec is not None
    if spec is not None:
        check_spec(spec, is_local=True)


@pytest.mark.parametrize(("earlier", "later"), list(itertools.product(JobState, JobState)), ids=str)
def test_states_only_go_forward(earlier: JobState, later: JobState) -> None:
    order = ["NEW", "QUEUED", "ACTIVE"]
    rank = order.index(earlier) if earlier in order else 3
    expected = rank < 3 and (later not in order or order.index(later) > rank)
    assert later.may_follow(earlier) is expected
