import inspect
import re
from pathlib import Path
from types import ModuleType

import attrs
import pytest

from orbit_core import command, values, web
from orbit_core.config import BridgeConfig, ClientConfig, EndpointConfig
from orbit_core.errors import OrbitError
from orbit_core.hookspecs import HookSpecs

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
HOOKS = {
    name: [argument for argument in inspect.signature(hook).parameters if argument != "self"]
    for name, hook in vars(HookSpecs).items()
    if not name.startswith("_")
}
HEADINGS = [
    line for line in (REFERENCE / "hooks.md").read_text().splitlines() if line.startswith("## ")
]


def errors(kind: type[OrbitError] = OrbitError) -> set[type[OrbitError]]:
    below = {found for child in kind.__subclasses__() for found in errors(child)}
    return {kind} | below if kind.__module__ == "orbit_core.errors" else below


HELPERS = [
    (module, name)
    for module in (command, values, web)
    for name, value in vars(module).items()
    if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
]


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_has_a_heading_with_its_arguments(name: str) -> None:
    assert f"## `{name}({', '.join(HOOKS[name])})`" in HEADINGS


def test_no_heading_is_of_a_hook_that_is_not() -> None:
    found = [match[1] for line in HEADINGS if (match := re.match(r"## `(\w+)\(", line))]
    assert sorted(found) == sorted(HOOKS)


@pytest.mark.parametrize(("module", "name"), HELPERS, ids=str)
def test_a_helper_is_listed_with_its_module(module: ModuleType, name: str) -> None:
    parts = (REFERENCE / "helpers.md").read_text().split("## `")
    part = next(part for part in parts if part.startswith(f"{module.__name__}`"))

    assert re.search(rf"^\| `{name}[`(]", part, re.MULTILINE)


@pytest.mark.parametrize("code", sorted({kind.code for kind in errors()}))
def test_an_error_code_is_in_the_http_reference(code: str) -> None:
    assert f"`{code}`" in (REFERENCE / "http.md").read_text()


@pytest.mark.parametrize("kind", sorted(errors(), key=str))
def test_an_error_code_is_listed_with_its_status(kind: type[OrbitError]) -> None:
    if kind.code not in ("config_error", "state_in_use"):
        line = rf"^\| {kind.status} \|.*`{kind.code}`"
        assert re.search(line, (REFERENCE / "http.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("section", "kind"),
    [("bridge", BridgeConfig), ("endpoint", EndpointConfig), ("client", ClientConfig)],
)
def test_a_section_of_the_configuration_is_documented_with_all_its_settings(
    section: str, kind: type[attrs.AttrsInstance]
) -> None:
    text = (REFERENCE / "configuration.md").read_text()
    table = text.partition(f"## `[{section}]`")[2].partition("## ")[0]
    rows = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert sorted(re.findall(r"`(\w+)`", rows)) == sorted(attrs.fields_dict(kind))
