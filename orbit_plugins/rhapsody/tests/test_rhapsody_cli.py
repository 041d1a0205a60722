import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from click.testing import CliRunner, Result

from orbit_core.cli import orbit
from orbit_core.testing import open_deployment


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Shell:
    """Run the command line as alice does."""

    def __init__(self, url: str, token: str) -> None:
        self._environment = {"ORBIT_URL": url, "ORBIT_TOKEN": token}

    def __call__(self, *arguments: str, text: str | None = None) -> Result:
        return CliRunner().invoke(orbit, arguments, input=text, env=self._environment)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in a process of its own, which takes interrupts."""
        command = [str(Path(sys.executable).with_name("orbit")), *arguments]
        return subprocess.Popen(
            command,
            env={**os.environ, **self._environment},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def data(self, *arguments: str) -> Any:
        found = self(*arguments, "--json")
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    plugins = {"node7": ["orbit_rhapsody.plugin:RhapsodyPlugin"]}
    opened = open_deployment(tmp_path_factory.mktemp("site"), plugins=plugins)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(opened) as deployment,
    ):
        yield Shell(deployment.url, portal.call(deployment.token))


def test_run_prints_what_the_command_printed_and_exits_as_it_did(shell: Shell) -> None:
    found = shell("run", "node7", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (found.stdout, found.exit_code) == ("out\n", 3)
    assert found.stderr == "err\norbit: it ended with exit code 3\n"


def test_run_says_once_that_a_command_could_not_be_started(shell: Shell) -> None:
    found = shell("run", "node7", "--", "/nowhere/program")
    (line,) = found.stderr.splitlines()
    assert line.startswith("orbit: /nowhere/program could not be started: ")
    assert (found.stdout, found.exit_code) == ("", 1)


@pytest.mark.parametrize(
    ("command", "code"), [("true", 0), ("kill -9 $$", 137)], ids=["well", "killed"]
)
def test_run_exits_as_a_shell_would(shell: Shell, command: str, code: int) -> None:
    assert shell("run", "node7", "--", "sh", "-c", command).exit_code == code


def test_run_takes_a_directory_variables_and_a_time(shell: Shell) -> None:
    options = ("--dir", "/", "--env", "COLOUR=red", "--timeout", "20")
    found = shell("run", *options, "--json", "node7", "--", "sh", "-c", "pwd; echo $COLOUR")
    assert json.loads(found.stdout)["stdout"] == "/\nred\n"
    assert "is not KEY=VALUE" in shell("run", "--env", "x", "node7", "true").output
    assert shell("run", "--timeout", "0.1", "node7", "--", "sleep", "60").exit_code != 0


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["run", "node7", "--", "sleep", "600"], ""),
        (["map", "node7", "time:sleep", "--json-lines"], "600\n600\n"),
    ],
    ids=["run", "map"],
)
def test_an_interrupt_cancels_what_runs(shell: Shell, command: list[str], text: str) -> None:
    before = {task["uid"] for task in shell.data("rhapsody", "list", "node7")}

    def states() -> list[str]:
        tasks = shell.data("rhapsody", "list", "node7")
        return [task["state"] for task in tasks if task["uid"] not in before]

    with shell.start(*command) as process:
        assert process.stdin is not None
        process.stdin.write(text)
        process.stdin.close()
        try:
            wait_for(lambda: "RUNNING" in states())
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        finally:
            process.kill()
    wait_for(lambda: set(states()) == {"CANCELED"})


def test_map_calls_a_function_for_each_line(shell: Shell) -> None:
    found = shell("map", "node7", "builtins:len", text="one\nthree\n")
    assert (found.stdout, found.exit_code) == ("3\n5\n", 0)
    found = shell("map", "--json-lines", "node7", "builtins:pow", text="[2, 8]\n[3, 2]\n")
    assert found.stdout == "256\n9\n"
    found = shell("map", "--json-lines", "--json", "node7", "builtins:str", text="7\n8\n")
    assert [json.loads(line)["return_value"] for line in found.stdout.splitlines()] == ["7", "8"]


def test_map_says_what_failed(shell: Shell) -> None:
    found = shell("map", "--json-lines", "node7", "math:sqrt", text="4\n-1\n")
    assert found.stdout == "2.0\nFAILED: ValueError: math domain error\n"
    assert "1 of 2 calls failed" in found.stderr
    assert found.exit_code == 1
    assert "not JSON: 'x'" in shell("map", "--json-lines", "node7", "math:sqrt", text="x").output


def test_a_task_is_submitted_shown_waited_for_and_listed(shell: Shell) -> None:
    uid = shell("rhapsody", "submit", "node7", "--", "echo", "hello").stdout.strip()
    found = shell("rhapsody", "wait", "node7", uid)
    assert (found.stdout, found.exit_code) == (f"{uid} DONE\nhello\n", 0)
    assert shell("rhapsody", "status", "node7", uid).stdout == f"{uid} DONE\nhello\n"
    listed = shell.data("rhapsody", "list", "node7")
    assert {"uid": uid, "state": "DONE"} in listed
    assert f"{uid}  DONE" in shell("rhapsody", "list", "node7").stdout
    assert shell.data("rhapsody", "statistics", "node7")["states"]["DONE"] >= 1
    assert '"states"' in shell("rhapsody", "statistics", "node7").stdout


def test_a_task_that_fails_is_shown_with_its_reason(shell: Shell) -> None:
    uid = shell.data("rhapsody", "submit", "node7", "false")["uid"]
    found = shell("rhapsody", "wait", "node7", uid)
    assert (found.stdout, found.exit_code) == (f"{uid} FAILED\nit ended with exit code 1\n", 1)


def test_tasks_are_cancelled(shell: Shell) -> None:
    uids = [shell.data("rhapsody", "submit", "node7", "sleep", "60")["uid"] for _ in range(2)]
    assert shell("rhapsody", "cancel", "node7", uids[0]).stdout == "1 cancelled\n"
    assert shell("rhapsody", "cancel", "node7", "--all").stdout == "1 cancelled\n"
    assert "name the tasks, or say --all" in shell("rhapsody", "cancel", "node7").output


def test_a_value_that_json_lacks_is_shown_by_its_beginning(shell: Shell) -> None:
    found = shell("map", "--json-lines", "node7", "builtins:complex", text="[1, 2]\n")
    assert found.stdout == '"<pickled (1+2j)>"\n'
    found = shell("map", "node7", "os:urandom", "--json-lines", text="0\n")
    assert found.stdout == "\"b''\"\n"
