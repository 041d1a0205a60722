import json
import re
from pathlib import Path
from typing import Any

import attrs
import orbit_xgfabric
import pytest
from orbit_xgfabric.templates import EVALUATION, EVERYWHERE, SIMULATION, TRAINING
from orbit_xgfabric.values import written

PAGE = (Path(__file__).parent.parent / "docs" / "reference" / "workflows.md").read_text()
SECTIONS = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
ROW = re.compile(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", re.MULTILINE)


def default(field: "attrs.Attribute[Any]") -> str:
    """Return a field's default as the page has it."""
    if field.default is attrs.NOTHING:
        return "required"
    made: Any = field.default
    value = made.factory() if isinstance(made, attrs.Factory) else made
    if isinstance(value, orbit_xgfabric.Timeouts):
        return "[`Timeouts`](#timeouts)"
    return f"`{json.dumps(written(value))}`"


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_every_field_is_told_with_its_default(name: str) -> None:
    fields = attrs.fields(getattr(orbit_xgfabric, name))
    told = [row[:2] for row in ROW.findall(SECTIONS[name].split("| placeholder |")[0])]

    assert told == [(field.name, default(field)) for field in fields]


def test_every_class_of_a_configuration_has_its_section() -> None:
    assert set(SECTIONS) == {
        "ClusterConfig", "Continuous", "FieldMap", "ResourceConfig", "SensorSource",
        "TaskTemplate", "Timeouts", "WorkflowConfig",
    }  # fmt: skip


def test_every_placeholder_is_told() -> None:
    tables = {
        "every task": EVERYWHERE,
        "simulation": SIMULATION,
        "training": TRAINING,
        "evaluation": EVALUATION,
    }

    assert ROW.findall(SECTIONS["TaskTemplate"].split("| placeholder |")[1]) == [
        (name, where, meaning) for where, names in tables.items() for name, meaning in names.items()
    ]


def test_the_error_that_is_shown_is_the_one_that_is_raised() -> None:
    with pytest.raises(orbit_xgfabric.InvalidConfig) as raised:
        orbit_xgfabric.dict_to_config(
            {"batch_size": 0, "mock_sensor_data": "false"}, "configs/cups.json"
        )

    assert raised.value.detail in PAGE
