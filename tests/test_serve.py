import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

CLEAN = ("ORBIT_URL", "ORBIT_TOKEN", "ORBIT_TOKEN_FILE", "ORBIT_CERT")


@pytest.fixture
def environment(tmp_path):
    kept = {key: value for key, value in os.environ.items() if key not in CLEAN}
    home = {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    return {**kept, **home}


@contextmanager
def serving(environment, *arguments):
    command = [sys.executable, "-c", "from orbit_core.serve import main; main()", *arguments]
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def run(environment, *arguments):
    """Run to the end and return exit status, standard output and standard error."""
    with serving(environment, *arguments) as process:
        out, err = process.communicate(timeout=30)
    return process.returncode, out, err


BRIDGE = ("--role", "bridge", "--port", "0", "--plugins", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_bridge_and_an_endpoint_say_when_they_are_ready_and_end_when_told(environment, number):
    with serving(environment, *BRIDGE) as bridge:
        line = bridge.stdout.readline()
        assert line.startswith("bridge ready: http://127.0.0.1:")
        url = line.split()[-1]
        options = ("--role", "endpoint", "--name", "node", "--plugins", "")
        with serving(environment, *options) as endpoint:
            expected = f"endpoint node ready: linked to {url}, plugins: none\n"
            assert endpoint.stdout.readline() == expected
            endpoint.send_signal(number)
            assert endpoint.wait(20) == 0
            assert endpoint.stdout.read() == ""
        bridge.send_signal(number)
        assert bridge.wait(20) == 0
        assert bridge.stdout.read() == ""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "Missing option '--role'"),
        (("--role", "king"), "Invalid value for '--role'"),
        (("--role", "bridge", "--url", "http://x"), "--url is not for --role bridge"),
        (("--role", "endpoint", "--port", "1"), "--port is not for --role endpoint"),
        (("--role", "bridge", "--config", "nowhere.toml"), "nowhere.toml cannot be read"),
        (("--role", "bridge", "--host", "0.0.0.0"), "give --cert and --key, or say --insecure"),
        (("--role", "bridge", "--cert", "x.pem"), "--cert and --key go together"),
        ((*BRIDGE[:-1], "nothing"), "plugin selector 'nothing' matches nothing"),
        (("--role", "endpoint", "--name", "../x", "--url", "http://x"), "is not a valid name"),
        (("--role", "endpoint", "--name", "x", "--plugins", ""), "no bridge is named"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_usage_is_told_and_exits_2(environment, arguments, text):
    status, out, err = run(environment, *arguments)
    assert (status, out) == (2, "")
    assert text in err
    assert "Traceback" not in err


def test_a_fatal_fault_is_one_clear_line_and_exits_1(environment, tmp_path):
    secret = tmp_path / "token"
    secret.write_text("orbit_wrong")
    secret.chmod(0o600)
    with serving(environment, *BRIDGE) as bridge:
        bridge.stdout.readline()
        options = ("--role", "endpoint", "--name", "node", "--plugins", "", "--log-level", "ERROR")
        status, out, err = run(environment, *options, "--token-file", str(secret))
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("orbit-serve: ")
    assert "token" in err


def test_a_second_bridge_on_one_state_is_refused_with_one_line(environment):
    with serving(environment, *BRIDGE) as bridge:
        bridge.stdout.readline()
        status, out, err = run(environment, *BRIDGE, "--log-level", "ERROR")
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1


def test_the_log_may_be_one_json_object_a_line(environment):
    away = ("--role", "endpoint", "--name", "node", "--plugins", "", "--url", "http://127.0.0.1:9")
    with serving(environment, *away, "--log-format", "json") as endpoint:
        line = json.loads(endpoint.stderr.readline())
    assert line["level"] == "WARNING"
    assert "cannot reach http://127.0.0.1:9" in line["message"]
    assert {"time", "logger"} <= set(line)
