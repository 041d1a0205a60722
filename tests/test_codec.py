import json
import types
from enum import Enum
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_core import models
from orbit_core._codec import DEPTH, from_config, from_wire, parse_json, to_data
from orbit_core.errors import ConfigError, InvalidBody

MODELS = [
    found
    for found in vars(models).values()
    if isinstance(found, type) and attrs.has(found) and found.__module__ == models.__name__
]

numbers = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    if kind is Any:
        return json_values
    if kind is float:
        return numbers
    if isinstance(kind, type) and attrs.has(kind):
        fields = {field.name: values_of(field.type) for field in attrs.fields(kind)}
        return st.builds(kind, **fields)
    if isinstance(kind, types.GenericAlias) and kind.__origin__ is list:
        return st.lists(values_of(kind.__args__[0]), max_size=2)
    if isinstance(kind, types.GenericAlias):
        return st.dictionaries(st.text(max_size=5), values_of(kind.__args__[1]), max_size=2)
    if isinstance(kind, types.UnionType):
        return st.one_of([values_of(member) for member in kind.__args__])
    return st.from_type(kind)


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_model_comes_back_from_its_json(kind, data):
    value = data.draw(values_of(kind))

    assert from_wire(json.loads(json.dumps(to_data(value))), kind) == value


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Inner:
    count: int
    names: list[str] = attrs.field(factory=list)


@attrs.frozen
class Outer:
    text: str = ""
    flag: bool = False
    size: float = 0.0
    colour: Colour = Colour.RED
    path: Path | None = None
    mixed: str | dict[str, str] | None = None
    amount: str | float = 0.0
    inner: Inner | None = None
    inners: list[Inner] = attrs.field(factory=list)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "body: expected an object, got list"),
        (None, "body: expected an object, got NoneType"),
        ({"text": 7}, "body: expected str, got int at text"),
        ({"flag": "false"}, "body: expected bool, got str at flag"),
        ({"flag": 1}, "body: expected bool, got int at flag"),
        ({"size": "1"}, "body: expected a number, got str at size"),
        ({"size": True}, "body: expected a number, got bool at size"),
        ({"size": float("nan")}, "body: expected a finite number, got nan at size"),
        ({"size": float("inf")}, "body: expected a finite number, got inf at size"),
        ({"colour": "green"}, "body: expected one of red, blue, got 'green' at colour"),
        ({"colour": []}, "body: expected one of red, blue, got [] at colour"),
        ({"path": 3}, "body: expected str, got int at path"),
        ({"inner": {}}, "body: required field missing at inner.count"),
        ({"inner": []}, "body: expected an object, got list at inner"),
        ({"inner": {"count": True}}, "body: expected int, got bool at inner.count"),
        ({"inner": {"count": 1.0}}, "body: expected int, got float at inner.count"),
        ({"inner": {"count": 1, "names": "ab"}}, "body: expected a list, got str at inner.names"),
        ({"inner": {"count": 1, "names": ["a", 2]}},
         "body: expected str, got int at inner.names[1]"),
        ({"inners": [{"count": 1}, {}]}, "body: required field missing at inners[1].count"),
        ({"mixed": {"a": 1}}, "body: expected str, got int at mixed['a']"),
    ],
    ids=repr,
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_path(data, message):
    with pytest.raises(InvalidBody) as told:
        from_wire(data, Outer)

    assert told.value.detail == message
    assert (told.value.status, told.value.code) == (400, "invalid_body")


def test_all_faults_are_told_at_once():
    with pytest.raises(InvalidBody) as told:
        from_wire({"text": 1, "inner": {"count": "x", "names": [2]}}, Outer, "request")

    assert told.value.detail == (
        "request: expected str, got int at text; expected int, got str at inner.count; "
        "expected str, got int at inner.names[0]"
    )


def test_a_union_of_plain_types_takes_only_those():
    with pytest.raises(InvalidBody, match=r"^body: expected .*, got list at mixed$"):
        from_wire({"mixed": []}, Outer)


def test_a_union_with_float_takes_whole_numbers():
    assert from_wire({"amount": 3}, Outer).amount == 3.0
    assert from_wire({"amount": "3"}, Outer).amount == "3"


def test_the_wire_ignores_fields_it_does_not_know():
    assert from_wire({"text": "a", "later": 1}, Outer) == Outer("a")


def test_configuration_refuses_settings_it_does_not_know():
    with pytest.raises(ConfigError) as told:
        from_config({"txt": "a", "inner": {"count": 1, "z": 0}}, Outer, "[plugin.x]")

    assert told.value.detail.startswith("[plugin.x]: ")
    assert "unknown: txt" in told.value.detail
    assert "unknown: z at inner" in told.value.detail


def test_a_path_has_its_home_filled_in():
    assert from_config({"path": "~/x"}, Outer, "f").path == Path.home() / "x"


def test_data_has_paths_and_enums_as_text():
    assert to_data(Outer(path=Path("/a"), colour=Colour.BLUE))["path"] == "/a"
    assert to_data([Colour.BLUE]) == ["blue"]


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "", "{", b"\xff", "1 2"])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text)


@pytest.mark.parametrize("depth", [DEPTH + 1, 200_000], ids=["just", "far"])
@pytest.mark.parametrize("kind", [str, bytes])
def test_json_that_is_nested_too_deeply_is_refused(depth, kind):
    text = "[" * depth + "]" * depth
    with pytest.raises(ValueError, match=r"^it is nested too deeply$"):
        parse_json(text if kind is str else text.encode())


def test_nesting_up_to_the_limit_is_read():
    parse_json('{"a":' * DEPTH + "1" + "}" * DEPTH)
    parse_json("[" * DEPTH + "]" * DEPTH)


def test_many_brackets_side_by_side_are_not_deep():
    assert parse_json("[" + "[]," * 1000 + "{}]") == [[]] * 1000 + [{}]


@given(json_values)
def test_json_is_read_as_the_json_module_reads_it(value):
    assert parse_json(json.dumps(value)) == value


@given(st.binary() | st.text())
def test_anything_read_raises_only_value_error(text):
    try:
        parse_json(text)
    except ValueError:
        return


@pytest.mark.parametrize(
    "kind", [Outer, models.Topology, models.UIConfig, models.SessionRequest, models.Token]
)
@given(data=json_values)
def test_any_data_builds_or_is_an_invalid_body(kind, data):
    try:
        assert isinstance(from_wire(data, kind), kind)
    except InvalidBody:
        return
