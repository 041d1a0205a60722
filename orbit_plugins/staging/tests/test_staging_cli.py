import json
import os
import sys
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from click.testing import CliRunner, Result
from orbit_staging.cli import Bar

from orbit_core.cli import orbit
from orbit_core.errors import OrbitError
from orbit_core.testing import ALICE, Deployment

pytestmark = pytest.mark.anyio


class Shell:
    """Run the command line as alice does; it blocks, so in a thread of its own."""

    def __init__(self, options: list[str]) -> None:
        self._options = options

    async def __call__(self, *arguments: str, code: int = 0) -> Result:
        command = [*self._options, *arguments]
        invoke = partial(CliRunner().invoke, orbit, command)
        with anyio.fail_after(60):
            result = await anyio.to_thread.run_sync(invoke)
        assert result.exit_code == code, result.output
        return result


@pytest.fixture
async def run(deployment: Deployment, tmp_path: Path) -> Shell:
    token = tmp_path / "token"
    token.write_text(await deployment.token(ALICE))
    token.chmod(0o600)
    return Shell(["--url", deployment.url, "--token-file", str(token)])


async def test_files_are_copied_from_the_shell(run: Shell, tmp_path: Path) -> None:
    source, back = tmp_path / "x:y", tmp_path / "back"
    source.write_bytes(b"12345")
    said = (await run("cp", str(source), "a:d/")).stdout
    assert said.startswith("a:/")
    assert said.endswith("/files/d/x:y  5 bytes\n")
    await run("cp", "a:d/x:y", "b:z")
    assert (await run("cp", "b:z", str(back))).stdout == f"{back}  5 bytes\n"
    assert back.read_bytes() == b"12345"
    found = json.loads((await run("cp", "--json", "--overwrite", "b:z", str(back))).stdout)
    assert (found["path"], found["size"]) == (str(back), 5)


async def test_a_copy_that_is_refused_says_why(run: Shell, tmp_path: Path) -> None:
    result = await run("cp", "a:nowhere", str(tmp_path), code=1)
    assert isinstance(result.exception, OrbitError)
    assert "there is nothing at" in result.exception.detail
    usage = await run("cp", "./a:b", "c", code=2)
    assert "neither is ENDPOINT:PATH" in usage.output


async def test_directories_are_copied_from_the_shell(run: Shell, tmp_path: Path) -> None:
    tree, back = tmp_path / "tree", tmp_path / "back"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / "x").write_bytes(b"12345")
    (tree / "li\x1bnk").symlink_to("/etc")
    sent = await run("cp", "-r", str(tree), "a:in/")
    assert sent.stdout.endswith("/files/in/tree  1 files, 5 bytes\n")
    assert sent.stderr == "left out li\\x1bnk: a link, or no plain file\n"
    await run("cp", "--recursive", "a:in/tree", "b:")
    assert (await run("cp", "-r", "b:tree", str(back))).stdout == f"{back}  1 files, 5 bytes\n"
    assert (back / "d" / "x").read_bytes() == b"12345"
    refused = await run("cp", str(tree), "a:", code=1)
    assert "cp -r" in str(refused.exception)


async def test_files_are_looked_after_from_the_shell(run: Shell, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    made = (await run("staging", "mkdir", "a", "d/e")).stdout.strip()
    assert made.endswith("/files/d/e")
    await run("cp", str(tmp_path / "x"), "a:d/x")
    lines = (await run("staging", "list", "a", "d")).stdout.splitlines()
    assert lines[0] == made.removesuffix("/e")
    assert [line.split() for line in lines[1:]] == [
        ["TYPE", "SIZE", "NAME"],
        ["dir", "-", "e"],
        ["file", "5", "x"],
    ]
    listed = json.loads((await run("staging", "list", "a", "--json")).stdout)
    assert [entry["name"] for entry in listed["entries"]] == ["d"]
    status = (await run("staging", "stat", "a", "d/x", "--checksum")).stdout
    assert "type: file\nsize: 5\n" in status
    assert "\nsha256: 5994471abb01112a" in status
    assert "sha256" not in (await run("staging", "stat", "a", "d/x")).stdout
    gone = (await run("staging", "discard", "a", "d/y")).stdout
    assert gone == f"no upload to {made.removesuffix('/e')}/y is left\n"
    assert (await run("staging", "delete", "a", "d/e")).stdout == f"{made} is deleted\n"
    await run("staging", "delete", "a", "d", "--recursive")
    assert json.loads((await run("staging", "list", "a", "--json")).stdout)["entries"] == []


async def test_a_session_of_ones_own_is_used_unless_named(run: Shell, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    await run("cp", "--session", "lab", str(tmp_path / "x"), "a:")
    for session, names in (("lab", ["x"]), ("cli.alice", [])):
        said = await run("staging", "list", "a", "--session", session, "--json")
        assert [entry["name"] for entry in json.loads(said.stdout)["entries"]] == names


def test_a_bar_is_drawn_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Bar(silent=False) as bar:
        for done in (0, 512, 1024):
            bar(done, 1024)
    drawn = capsys.readouterr()
    assert "100%" in drawn.err
    assert drawn.out == ""


def test_no_bar_is_drawn_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(silent=False) as bar:
        bar(1, 2)
    assert capsys.readouterr().err == ""


async def test_names_in_a_listing_do_not_steer_the_terminal(run: Shell) -> None:
    top = (await run("staging", "list", "a")).stdout.splitlines()[0]
    for name in (b"a\x1b[2Jb", b"c\nd", b"e\xff", "für".encode()):
        await anyio.to_thread.run_sync(Path(os.fsdecode(os.fsencode(top) + b"/" + name)).touch)
    lines = (await run("staging", "list", "a")).stdout.splitlines()
    names = sorted(line.split()[-1] for line in lines[2:])
    assert names == [r"a\x1b[2Jb", r"c\nd", r"e\udcff", "für"]
