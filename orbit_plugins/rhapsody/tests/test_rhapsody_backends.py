from pathlib import Path
from typing import Any

import pytest
from orbit_rhapsody.backends import start_backend, templated
from orbit_rhapsody.models import RhapsodySettings


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (
            {"env": {"A": "1"}, "cwd": "/"},
            {"process_template": {"env": {"A": "1"}, "cwd": "/"}},
        ),
        (
            {"env": {"A": "1", "B": "1"}, "process_template": {"env": {"B": "2"}, "cwd": "/x"}},
            {"process_template": {"env": {"A": "1", "B": "2"}, "cwd": "/x"}},
        ),
        (
            {"env": {"A": "1"}, "cwd": "/", "process_templates": [[2, {}], [1, {"cwd": "/x"}]]},
            {
                "process_templates": [
                    (2, {"env": {"A": "1"}, "cwd": "/"}),
                    (1, {"env": {"A": "1"}, "cwd": "/x"}),
                ]
            },
        ),
    ],
    ids=["none", "one", "several"],
)
def test_dragon_gets_variables_and_directory_in_templates(
    options: dict[str, Any], found: dict[str, Any]
) -> None:
    assert templated(options) == found


@pytest.mark.anyio
async def test_a_task_names_its_backend_as_rhapsody_does(tmp_path: Path) -> None:
    backend = await start_backend("noop", RhapsodySettings(), tmp_path)
    backend.name = "another"
    task = backend.make("a", is_ai=False, function=abs)
    assert task["backend"] == "noop"
    assert backend.make("b", is_ai=False, executable="true")["backend"] == "noop"
    await backend.close()
