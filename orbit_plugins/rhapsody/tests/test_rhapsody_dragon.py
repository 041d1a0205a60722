"""Run an endpoint under Dragon's launcher; collected where Dragon is installed."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orbit_core import BridgeClient

BIN = Path(sys.executable).parent
TOKEN = "orbit_of_a_test"
PATIENCE = 120.0


def _start(folder: Path, ready: str, *command: str) -> tuple["subprocess.Popen[str]", str]:
    path = f"{BIN}:{os.environ['PATH']}"
    # Dragon's launcher wants to be where PWD says.
    environment = {**os.environ, "ORBIT_TOKEN": TOKEN, "PATH": path, "PWD": str(folder)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder
    )
    alarm = threading.Timer(PATIENCE, process.kill)
    alarm.start()
    assert process.stdout is not None
    found = next(filter(None, (re.search(ready, line) for line in process.stdout)))
    alarm.cancel()
    return process, found[1]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    serve = str(BIN / "orbit-serve")
    state = str(tmp_path / "bridge")
    command = (serve, "--role", "bridge", "--port", "0", "--state-dir", state)
    bridge, url = _start(tmp_path, r"ready: (http\S+?)(?=,|$)", *command)
    state = str(tmp_path / "endpoint")
    named = ("--role", "endpoint", "--name", "node7", "--plugins", "rhapsody")
    command = (str(BIN / "dragon"), "-s", serve, *named, "--url", url, "--state-dir", state)
    launcher, _ = _start(tmp_path, r"(ready)", *command)
    yield url
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if state in words and str(BIN / "dragon") not in words:
            process.send_signal(signal.SIGTERM)  # the launcher ends with it
    assert launcher.wait(PATIENCE) == 0
    bridge.terminate()
    bridge.wait(PATIENCE)
    for ended in (launcher, bridge):
        assert ended.stdout is not None
        ended.stdout.close()


def test_functions_and_executables_run_under_dragon(url: str) -> None:
    with BridgeClient(url, token=TOKEN) as bridge:
        rhapsody = bridge.get_endpoint_client("node7").get_plugin("rhapsody")
        assert rhapsody.session_status()["backends"] == ["dragon_v3"]
        options = {"env": {"COLOUR": "red"}, "cwd": "/"}
        script = "pwd; echo $COLOUR; exit 3"
        tasks = rhapsody.submit_tasks(
            [
                {"function": "math:sqrt", "args": [9.0]},
                {"executable": "/bin/true"},
                {
                    "executable": "/bin/sh",
                    "arguments": ["-c", script],
                    "task_backend_specific_kwargs": options,
                },
                {
                    "executable": "/bin/sleep",
                    "arguments": ["300"],
                    "task_backend_specific_kwargs": {"timeout": 1},
                },
            ]
        )
        root, true, shell, long = rhapsody.wait_tasks(tasks, PATIENCE)
        assert (root["state"], root["return_value"]) == ("DONE", 3.0)
        assert (true["state"], true["exit_code"]) == ("DONE", 0)
        assert (shell["state"], shell["exit_code"]) == ("FAILED", 3)
        assert (shell["stdout"], shell["error"]) == ("/\nred\n", "it ended with exit code 3")
        assert (long["state"], long["error"]) == ("FAILED", "its time of 1 s was up")
        rhapsody.unregister_session()
