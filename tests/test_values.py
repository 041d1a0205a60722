import json
from enum import StrEnum

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_core.errors import InvalidBody
from orbit_core.values import as_model, to_data


class State(StrEnum):
    IDLE = "idle"
    BUSY = "busy"


@attrs.frozen
class Task:
    name: str
    state: State = State.IDLE
    ranks: int | None = None
    options: dict[str, str | int | float | bool] = attrs.field(factory=dict)


scalars = (
    st.text() | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
)
tasks = st.builds(Task, options=st.dictionaries(st.text(), scalars, max_size=3))


@pytest.mark.parametrize("strict", [False, True], ids=["lenient", "strict"])
@given(tasks)
def test_a_value_comes_back_from_its_json(strict: bool, task: Task) -> None:
    data = json.loads(json.dumps(to_data(task)))

    assert as_model(data, Task, strict=strict) == task


def test_an_unknown_field_is_ignored() -> None:
    assert as_model({"name": "a", "later": 1}, Task) == Task("a")


def test_strictly_read_an_unknown_field_is_a_fault_besides_the_others() -> None:
    with pytest.raises(InvalidBody) as told:
        as_model({"nmae": "a", "state": "lazy"}, Task, "task", strict=True)

    assert told.value.detail == (
        "task: required field missing at name; expected one of idle, busy, got 'lazy' at state; "
        "unknown: nmae"
    )
