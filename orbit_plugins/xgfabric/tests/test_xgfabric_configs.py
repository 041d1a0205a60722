import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_xgfabric import (
    BuiltinConfig,
    ConfigsUnavailable,
    InvalidConfig,
    InvalidWorkdir,
    ResourceConfig,
    UnknownConfig,
    WorkflowConfig,
    config_to_dict,
)
from orbit_xgfabric.builtins import RESOURCES, WORKFLOWS
from orbit_xgfabric.configs import ConfigFolder

from orbit_core.errors import BadRequest, Conflict, InvalidName, NotFound

MINE = {"name": "mine", "description": "my own", "num_simulations": "8"}


@pytest.fixture
def folder(tmp_path: Path) -> ConfigFolder:
    (tmp_path / "work").mkdir()
    return ConfigFolder(tmp_path / "work")


def put(folder: ConfigFolder, file: str, text: str | bytes) -> Path:
    path = folder.workdir / "configs" / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_what_is_saved_is_found_again(folder: ConfigFolder) -> None:
    assert folder.save(MINE) == "mine"

    expected = WorkflowConfig(name="mine", description="my own", num_simulations=8)
    path = folder.workdir / "configs" / "mine.json"
    for name in ("mine", "mine.json", str(path)):
        assert folder.load(name) == folder.load_workflow(name) == expected
    assert json.loads(path.read_text()) == config_to_dict(expected)
    (summary,) = folder.summaries()
    assert (summary.name, summary.description, summary.kind) == ("mine", "my own", "workflow")
    assert summary.modified.endswith("+00:00")
    assert summary.error is None


def test_resources_are_told_from_workflows(folder: ConfigFolder) -> None:
    folder.save({"name": "sites", "broker_url": "https://hub"})

    assert folder.load_resource("sites") == ResourceConfig("sites", "https://hub")
    assert folder.summaries()[0].kind == "resource"
    with pytest.raises(InvalidConfig, match="sites describes resources"):
        folder.load_workflow("sites")
    folder.save(MINE)
    with pytest.raises(InvalidConfig, match="mine describes a workflow"):
        folder.load_resource("mine")


def test_what_is_built_in_needs_no_directory() -> None:
    folder = ConfigFolder(Path("/nowhere"))

    assert folder.load("default") is WORKFLOWS["default"]
    assert folder.load_workflow("__default__") is WORKFLOWS["default"]
    assert folder.load_workflow("test") is WORKFLOWS["test"]
    assert folder.load_resource("__default__") is RESOURCES["default"]
    assert folder.load_resource("test") is RESOURCES["test"]


def test_a_file_replaces_what_had_its_name(folder: ConfigFolder) -> None:
    put(folder, "mine.toml", 'name = "mine"\n')
    folder.save(MINE)
    folder.save({**MINE, "description": "again"})

    assert os.listdir(folder.workdir / "configs") == ["mine.json"]
    assert folder.load_workflow("mine").description == "again"


def test_toml_is_read(folder: ConfigFolder) -> None:
    put(folder, "site.toml", '[cluster_configs.anvil]\nqueue = "wholenode"\nnodes = 2\n')

    cluster = folder.load_resource("site").cluster_configs["anvil"]

    assert (cluster.queue, cluster.nodes) == ("wholenode", 2)
    assert folder.load_resource("site.toml") == folder.load_resource("site")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("x.json", '{\n "name": "x",\n}', "configs/x.json is not JSON: .*line 3 column 1"),
        ("x.json", "", "line 1"),
        ("x.json", '{"name": NaN}', "NaN is no JSON value"),
        ("x.json", "[" * 100_000, "nested too deeply"),
        ("x.json", b"\xff", "UTF-8"),
        ("x.json", "[]", "configs/x.json: expected an object, got list"),
        ("x.json", '{"batch_size": 0}', "configs/x.json: must be 1 to .* at batch_size"),
        ("x.json", '{"batch_size": ' + "9" * 5000 + "}", "not JSON"),
        ("x.json", " " * 1_100_000, "has more than"),
        ("x.toml", 'name = "x"\nbatch_size = \n', r"configs/x.toml is not TOML: .*line 2, column"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(
    folder: ConfigFolder, file: str, text: str | bytes, said: str
) -> None:
    put(folder, file, text)

    with pytest.raises(InvalidConfig, match=said):
        folder.load("x")
    assert folder.summaries()[0].error


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "../x",
        "/etc/passwd",
        "/etc/x.json",
        "a/b",
        "..",
        ".",
        "",
        ".hidden",
        "a\0b",
        "a\nb",
        "x" * 65,
        "configs/../../x",
        "~root/x",
        "%2e%2e",
        "\N{FULLWIDTH FULL STOP}",
    ],
)
def test_names_that_lead_elsewhere_are_refused(folder: ConfigFolder, name: str) -> None:
    for act in (folder.load, folder.load_resource, folder.delete):
        with pytest.raises(InvalidName):
            act(name)
    with pytest.raises(InvalidName):
        folder.save({"name": name})


@given(name=st.text(st.sampled_from("./~ax\0\n")) | st.text())
def test_no_name_leads_out_of_the_directory(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outer = tmp_path_factory.mktemp("outer")
    (outer / "work").mkdir()
    (outer / "x.json").write_text("{}")
    folder = ConfigFolder(outer / "work")
    for act in (folder.load, folder.delete, lambda text: folder.save({"name": text})):
        with suppress(BadRequest, NotFound, Conflict):
            act(name)

    assert sorted(path.name for path in outer.iterdir()) == ["work", "x.json"]
    assert (outer / "x.json").read_text() == "{}"
    assert [path.name for path in folder.workdir.iterdir()] in ([], ["configs"])


def test_a_symbolic_link_is_neither_read_nor_written_through(
    folder: ConfigFolder, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"description": "secret"}')
    put(folder, "other.json", "{}").unlink()
    link = folder.workdir / "configs" / "mine.json"
    link.symlink_to(secret)

    with pytest.raises(InvalidConfig, match="symbolic link"):
        folder.load("mine")
    assert folder.summaries()[0].description == ""
    folder.save(MINE)
    assert not link.is_symlink()
    assert secret.read_text() == '{"description": "secret"}'


def test_the_directory_is_no_symbolic_link(folder: ConfigFolder, tmp_path: Path) -> None:
    (folder.workdir / "configs").symlink_to(tmp_path)

    acts: list[Callable[[], Any]] = [
        folder.summaries,
        lambda: folder.save(MINE),
        lambda: folder.load("mine"),
        lambda: folder.delete("mine"),
    ]
    for act in acts:
        with pytest.raises(InvalidWorkdir, match="symbolic link"):
            act()
    assert list(tmp_path.glob("*.json")) == []


def test_pipes_and_directories_are_no_configurations(folder: ConfigFolder) -> None:
    put(folder, "x.json", "").unlink()
    os.mkfifo(folder.workdir / "configs" / "x.json")
    (folder.workdir / "configs" / "y.json").mkdir()

    for name in ("x", "y"):
        with pytest.raises(InvalidConfig, match="is no file"):
            folder.load(name)


def test_files_of_other_kinds_are_not_listed(folder: ConfigFolder) -> None:
    for file in (".mine.json.12", "notes.txt", "b.json", "a.json", "a.toml", ".json", "-x.json"):
        put(folder, file, "{}" if file.endswith("json") else "")

    assert [found.name for found in folder.summaries()] == ["a", "b"]


def test_what_is_deleted_is_gone(folder: ConfigFolder) -> None:
    folder.save(MINE)
    put(folder, "mine.toml", "")

    assert folder.delete("mine") == "mine"
    assert folder.summaries() == []
    for act in (folder.delete, folder.load):
        with pytest.raises(UnknownConfig, match="there is no configuration mine in"):
            act("mine")


def test_an_empty_work_directory_has_nothing(folder: ConfigFolder) -> None:
    assert folder.summaries() == []
    for act in (folder.delete, folder.load):
        with pytest.raises(UnknownConfig, match="built in are default and test"):
            act("mine")


@pytest.mark.parametrize("name", ["default", "test", "default.json"])
def test_what_is_built_in_stays_as_it_is(folder: ConfigFolder, name: str) -> None:
    with pytest.raises(BuiltinConfig, match="another name"):
        folder.save({"name": name})
    with pytest.raises(BuiltinConfig):
        folder.delete(name)


def test_nothing_is_saved_of_what_is_wrong(folder: ConfigFolder) -> None:
    with pytest.raises(InvalidConfig, match="batch_size"):
        folder.save({**MINE, "batch_size": "many"})
    assert folder.summaries() == []


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_work_directory_that_is_none_is_refused(tmp_path: Path, kind: str) -> None:
    workdir = tmp_path / "work"
    if kind == "file":
        workdir.write_text("")

    folder = ConfigFolder(workdir)
    for act in (folder.summaries, lambda: folder.save(MINE)):
        with pytest.raises(InvalidWorkdir, match="is no directory"):
            act()


def test_a_full_disk_leaves_what_was_there(
    folder: ConfigFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder.save(MINE)
    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(ConfigsUnavailable, match="No space left"):
        folder.save({**MINE, "description": "new"})
    assert os.listdir(folder.workdir / "configs") == ["mine.json"]
    assert folder.load_workflow("mine").description == "my own"
