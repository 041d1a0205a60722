import json
import math
import threading
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_rhapsody.packing import is_self_contained, pack_arguments, pack_batch, pack_task
from orbit_rhapsody.specs import Policy, expand, read_tasks
from orbit_rhapsody.values import (
    Pickled,
    decode,
    encode,
    for_json,
    is_plain,
    pack,
    python_version,
)

atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters()),
    st.binary(),
    st.complex_numbers(allow_nan=False),
    st.dates(),
)
values = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(st.text(st.characters()), inner),
        st.dictionaries(st.integers(), inner),
    ),
    max_leaves=20,
)


def opened(result: dict[str, Any]) -> Any:
    value = decode(result)
    return value.open() if isinstance(value, Pickled) else value


def same(first: object, second: object) -> bool:
    """Compare with types: True is not 1, and a tuple no list."""
    return repr(first) == repr(second)


@given(values)
def test_a_value_arrives_as_it_was_by_msgpack(value: Any) -> None:
    assert same(opened(msgpack.unpackb(pack(encode(value)))), value)


@given(values)
def test_a_value_arrives_as_it_was_by_json(value: Any) -> None:
    assert same(opened(json.loads(json.dumps(for_json(encode(value))))), value)


@given(values)
def test_what_is_called_plain_comes_back_exactly(value: Any) -> None:
    if is_plain(value):
        assert same(msgpack.unpackb(pack(value)), value)


@given(st.lists(values).map(tuple), st.dictionaries(st.text(min_size=1), values))
def test_arguments_arrive_as_they_were(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    fields = msgpack.unpackb(pack(pack_arguments(args, kwargs)))
    task = {"uid": "a", "function": "math:sqrt", **fields}
    (work,) = read_tasks({"tasks": [task]}, Policy(("concurrent",)))
    assert work.call is not None
    found = [
        value.open() if isinstance(value, Pickled) else value
        for value in (work.call.args, work.call.kwargs)
    ]
    assert same((tuple(found[0]), found[1]), (args, kwargs))


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 1)), min_size=1))
def test_packed_tasks_expand_to_what_they_were(tasks: list[dict[str, Any]]) -> None:
    numbered = [{**task, "uid": str(number)} for number, task in enumerate(tasks)]
    batch = msgpack.unpackb(pack_batch(numbered))
    assert batch.pop("python") == python_version()
    assert expand(batch) == numbered


class Shy:
    def __repr__(self) -> str:
        raise RuntimeError

    def __reduce__(self) -> Any:
        raise RuntimeError


def test_a_value_that_refuses_everything_is_named() -> None:
    assert encode(Shy()) == {"return_value": "<Shy>", "_return_value_encoding": "repr"}


def test_what_is_nested_deeply_is_pickled() -> None:
    value: list[Any] = []
    for _ in range(60):
        value = [value]
    assert not is_plain(value)
    assert opened(encode(value)) == value


def test_a_closed_pickle_shows_its_digest_and_size() -> None:
    pickled = Pickled(b"abc")
    assert repr(pickled) == "<pickled 3 bytes>"
    assert pickled.sha256.startswith("ba7816bf")


def test_a_task_that_is_packed_already_stays_as_it_is() -> None:
    task = {"uid": "a", "function": "cloudpickle::AA==", "_pickled_fields": ["function"]}
    assert pack_task(task) == task


FACTOR = 2


def plain(value: float) -> float:
    return math.sqrt(value)


def with_global(value: int) -> int:
    return value * FACTOR


def with_default(value: int, sink: list[int] = []) -> None:  # noqa: B006
    sink.append(value)


def with_keyword(*, value: int = 1) -> int:
    return value


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (plain, True),
        (lambda: 1, True),
        (lambda: [lambda: FACTOR], False),
        (with_global, False),
        (with_default, False),
        (with_keyword, False),
        (threading.Lock, False),
    ],
)
def test_only_what_cannot_change_is_pickled_once(function: Any, expected: bool) -> None:
    assert is_self_contained(function) is expected
