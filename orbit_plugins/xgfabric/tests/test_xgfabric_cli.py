import json
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from click.testing import CliRunner, Result
from orbit_xgfabric import InvalidConfig, UnknownConfig, config_to_dict, dict_to_config
from orbit_xgfabric.builtins import WORKFLOWS

from orbit_core.cli import orbit
from orbit_core.testing import ALICE, Deployment, open_deployment

pytestmark = pytest.mark.anyio

Run = Callable[..., Coroutine[Any, Any, Result]]


def shell(options: list[str]) -> Run:
    """Return what runs a command line as alice does; it blocks, so in a thread of its own."""

    async def run(*arguments: str, code: int = 0, given: str | None = None) -> Result:
        command = [*options, "xgfabric", *arguments]
        invoke = partial(CliRunner().invoke, orbit, command, input=given)
        with anyio.fail_after(60):
            result = await anyio.to_thread.run_sync(invoke)
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
async def deployment(
    tmp_path: Path, targets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("XGFABRIC_WORKDIR", str(tmp_path / "work"))
    plugins = {"node7": [targets["xgfabric"]], "node8": [targets["staging"]]}
    async with open_deployment(tmp_path / "state", plugins=plugins) as found:
        yield found


@pytest.fixture
async def run(deployment: Deployment, tmp_path: Path) -> Run:
    token = tmp_path / "token"
    token.write_text(await deployment.token(ALICE))
    token.chmod(0o600)
    return shell(["--url", deployment.url, "--token-file", str(token)])


async def test_configurations_are_saved_listed_shown_and_deleted(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\ndescription = "my own"\nnum_simulations = 8\n')

    assert (await run("save", str(file))).stdout == "mine is saved\n"
    heading, *rows = (await run("configs")).stdout.splitlines()
    assert heading.split() == ["NAME", "KIND", "MODIFIED", "DESCRIPTION"]
    assert [row.split()[0] for row in rows] == ["default", "test", "mine"]
    assert rows[2].endswith("my own")
    shown = dict_to_config(json.loads((await run("show", "mine")).stdout))
    assert (shown.name, shown.num_simulations) == ("mine", 8)
    assert (await run("delete", "mine")).stdout == "mine is deleted\n"
    gone = await run("show", "mine", code=1)
    assert isinstance(gone.exception, UnknownConfig)


async def test_every_command_has_json(run: Run, tmp_path: Path) -> None:
    given = json.dumps({"cluster_configs": {"anvil": {"nodes": 2}}})

    saved = await run("save", "-", "--name", "sites", "--json", given=given)
    assert json.loads(saved.stdout) == {"status": "saved", "name": "sites"}
    (listed,) = json.loads((await run("configs", "--json")).stdout)
    assert (listed["name"], listed["kind"], listed["error"]) == ("sites", "resource", None)
    shown = json.loads((await run("show", "sites", "--json")).stdout)
    assert shown["cluster_configs"]["anvil"]["nodes"] == 2
    gone = await run("delete", "sites", "--json")
    assert json.loads(gone.stdout) == {"status": "deleted", "name": "sites"}


async def test_what_is_built_in_can_be_shown_and_saved_under_another_name(run: Run) -> None:
    shown = (await run("show", "test")).stdout

    assert json.loads(shown) == config_to_dict(WORKFLOWS["test"])
    assert (await run("save", "-", "--name", "copy", given=shown)).stdout == "copy is saved\n"


async def test_a_file_that_is_wrong_is_refused_with_its_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_text('{\n"name": \n}')

    result = await run("save", str(file), code=1)

    assert isinstance(result.exception, InvalidConfig)
    assert f"{file} is not JSON" in result.exception.detail
    assert "line 3" in result.exception.detail


async def test_a_broken_file_is_listed_with_its_fault(run: Run, tmp_path: Path) -> None:
    (tmp_path / "work" / "configs").mkdir()
    (tmp_path / "work" / "configs" / "x.json").write_text("{")

    assert "x.json is not JSON" in (await run("configs")).stdout


async def test_one_of_several_endpoints_has_to_be_named(
    run: Run, deployment: Deployment, targets: dict[str, str]
) -> None:
    async with deployment.endpoint("node9", [targets["xgfabric"]]):
        result = await run("configs", code=1)
        assert "say --endpoint with one of node7, node9" in result.output
        assert "default" in (await run("configs", "--endpoint", "node9")).stdout


async def test_without_such_an_endpoint_it_says_what_to_do(
    tmp_path: Path, targets: dict[str, str]
) -> None:
    plugins = {"node8": [targets["staging"]]}
    async with open_deployment(tmp_path / "state", plugins=plugins) as deployment:
        token = tmp_path / "token"
        token.write_text(await deployment.token(ALICE))
        token.chmod(0o600)
        run = shell(["--url", deployment.url, "--token-file", str(token)])
        result = await run("configs", code=1)
    assert "no connected endpoint serves xgfabric" in result.output
