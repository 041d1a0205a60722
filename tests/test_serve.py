import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from orbit_core import BridgeClient, _endpoint_role
from orbit_core import serve as serve_module
from orbit_core._watchdog import STALL
from orbit_core.client import AsyncBridgeClient
from orbit_core.config import EndpointConfig
from orbit_core.errors import Forbidden
from orbit_core.models import Principal, Role
from orbit_core.testing import open_deployment
from tests.offering import offer
from tests.waiting import until

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


@pytest.mark.parametrize("variable", ["ORBIT_TOKEN", "RADICAL_ORBIT_BRIDGE_TOKEN"])
def test_no_job_inherits_the_token(environment, tmp_path, variable):
    secret = tmp_path / "token"
    secret.write_text("orbit_secret")
    secret.chmod(0o600)
    plain = {**environment, "OTHER": "kept"}
    file = {"ORBIT_TOKEN_FILE": str(secret)}
    with serving({**plain, **file, variable: "orbit_secret"}, *BRIDGE) as bridge:
        url = bridge.stdout.readline().split()[-1]
        options = ("--role", "endpoint", "--name", "node", "--url", url, "--plugins", "psij")
        for given in (file, {variable: "orbit_secret"}):
            with (
                serving({**plain, **given}, *options) as endpoint,
                BridgeClient(url, token="orbit_secret") as client,
            ):
                assert endpoint.stdout.readline().startswith("endpoint node ready: ")
                psij = client.get_endpoint_client("node").get_plugin("psij")
                job = psij.submit_job({"executable": "/usr/bin/env"})
                shown = psij.wait_job(job["job_id"])["stdout"]
                endpoint.terminate()
                assert endpoint.wait(20) == 0
            assert "OTHER=kept\n" in shown
            assert "orbit_secret" not in shown
            assert "ORBIT_TOKEN_FILE" not in shown


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
    assert err.startswith("orbit-serve: ")
    assert text in err
    assert len(err.splitlines()) == 1


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


def test_a_plugin_that_takes_long_to_import_is_no_stall_of_the_loop(
    environment, tmp_path, monkeypatch
):
    offer(tmp_path, monkeypatch, "[orbit.plugins]\nlengthy = lengthy_plugin:Lengthy\n")
    slow = f"import threading\nthreading.Event().wait({2 * STALL})\nraise OSError('imported')\n"
    (tmp_path / "lengthy_plugin.py").write_text(slow)
    path = os.pathsep.join([str(tmp_path), str(Path.cwd())])
    with serving({**environment, "PYTHONPATH": path}, *BRIDGE[:-1], "lengthy") as bridge:
        assert bridge.stdout.readline().startswith("bridge ready: ")
        bridge.send_signal(signal.SIGTERM)
        _, err = bridge.communicate(timeout=30)
    assert "OSError: imported" in err
    assert "the event loop has not turned" not in err.partition("OSError: imported")[0]


def test_the_log_may_be_one_json_object_a_line(environment):
    away = ("--role", "endpoint", "--name", "node", "--plugins", "", "--url", "http://127.0.0.1:9")
    with serving(environment, *away, "--log-format", "json") as endpoint:
        line = json.loads(endpoint.stderr.readline())
    assert line["level"] == "WARNING"
    assert "cannot reach http://127.0.0.1:9" in line["message"]
    assert {"time", "logger"} <= set(line)


@contextmanager
def kept_logging():
    """Let the root logger be set up anew, and put back what was there."""
    root = logging.getLogger()
    kept, level = root.handlers, root.level
    noisy = [logging.getLogger(name) for name in ("httpx", "httpcore", "websockets", "uvicorn")]
    levels = [logger.level for logger in noisy]
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = kept
        root.setLevel(level)
        for logger, before in zip(noisy, levels, strict=True):
            logger.setLevel(before)


@pytest.fixture
def here(environment, monkeypatch):
    """Let this process have the environment of a fresh user."""
    for name in CLEAN:
        monkeypatch.delenv(name, raising=False)
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, environment[name])


def terminate(state_dir):
    """Wait for a bridge in this process and tell it to stop."""

    async def ask():
        await until(lambda: (state_dir / "url").exists() and (state_dir / "url").read_text(), 20)
        token = (state_dir / "admin.token").read_text().strip()
        url = (state_dir / "url").read_text().strip()
        async with AsyncBridgeClient(url, None, token) as client:
            await client.terminate_bridge()

    anyio.run(ask)


@pytest.mark.parametrize(("form", "plugins"), [("text", ""), ("json", "sysinfo")])
def test_a_bridge_told_over_http_ends_by_itself(here, tmp_path, form, plugins):
    asking = threading.Thread(target=terminate, args=(tmp_path / "b",))
    asking.start()
    options = ("--state-dir", str(tmp_path / "b"), "--log-format", form)
    with kept_logging():
        result = CliRunner().invoke(serve_module.serve, [*BRIDGE[:-1], plugins, *options])
    asking.join()
    assert (result.exit_code, result.exception) == (0, None)
    assert result.stdout.startswith("bridge ready: http://127.0.0.1:")


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("--role", "endpoint", "--name", "x", "--plugins", ""), 2, "no bridge is named"),
        (("--role", "endpoint", "--name", "../x", "--url", "http://x"), 2, "is not a valid name"),
        (("--role", "bridge", "--cert", "x.pem"), 2, "--cert and --key go together"),
    ],
    ids=["no bridge", "no name", "no key"],
)
def test_a_fault_is_one_line_on_standard_error(here, monkeypatch, capsys, arguments, status, text):
    monkeypatch.setattr("sys.argv", ["orbit-serve", *arguments])
    with kept_logging(), pytest.raises(SystemExit) as told:
        serve_module.main()
    assert told.value.code == status
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("orbit-serve: ")
    assert text in line


@pytest.fixture
def started(here, monkeypatch):
    """Return what a start of ``orbit-serve`` with some arguments would run, with what."""

    def start(*arguments):
        runs = []
        monkeypatch.setattr(serve_module, "run_server", lambda *run: runs.append(run))
        with kept_logging():
            result = CliRunner().invoke(serve_module.serve, arguments)
        assert (result.exit_code, result.exception) == (0, None)
        return runs[0][1:]

    return start


@pytest.fixture
def files(tmp_path):
    """Write a configuration with every setting that an option or the environment has, too."""
    path = tmp_path / "orbit.toml"
    path.write_text(
        '[bridge]\nhost = "file"\nport = 1\nplugins = ["file"]\n'
        '[endpoint]\nname = "file"\nurl = "http://file"\ntoken_file = "/file"\ncert = "/file"\n'
    )
    return "--config", str(path)


ENDPOINT = ("--role", "endpoint")


@pytest.mark.parametrize("role", ["bridge", "endpoint"])
def test_what_is_logged_is_a_setting(here, tmp_path, monkeypatch, role):
    file = tmp_path / "orbit.toml"
    file.write_text(f'[{role}]\nlog_level = "ERROR"\nlog_format = "json"\n')
    found = []

    def note(*run):
        root = logging.getLogger()
        found.append((root.level, isinstance(root.handlers[0].formatter, serve_module._JsonLines)))

    monkeypatch.setattr(serve_module, "run_server", note)
    for options in ((), ("--log-level", "DEBUG", "--log-format", "text")):
        with kept_logging():
            CliRunner().invoke(
                serve_module.serve, ["--role", role, "--config", str(file), *options]
            )
    assert found == [(logging.ERROR, True), (logging.DEBUG, False)]


def test_an_endpoints_settings_come_from_the_file_last(started, files, monkeypatch):
    config, _, token = started(*ENDPOINT, *files)
    assert (config.name, config.url, token) == ("file", "http://file", None)
    assert (config.token_file, config.cert) == (Path("/file"), Path("/file"))

    for name in CLEAN:
        monkeypatch.setenv(name, "/environment")
    config, _, token = started(*ENDPOINT, *files)
    assert (config.name, config.url, token) == ("file", "/environment", "/environment")
    assert (config.token_file, config.cert) == (Path("/environment"), Path("/environment"))

    for name in CLEAN:
        monkeypatch.setenv(name, "/environment")
    named = ("--name", "o", "--url", "http://o", "--token-file", "/o", "--cert", "/o")
    config, _, token = started(*ENDPOINT, *files, *named)
    assert (config.name, config.url, token) == ("o", "http://o", None)
    assert (config.token_file, config.cert) == (Path("/o"), Path("/o"))


def test_a_bridges_settings_come_from_the_file_last(started, files, monkeypatch):
    config, _, token = started("--role", "bridge", *files)
    assert (config.host, config.port, config.plugins, token) == ("file", 1, ["file"], None)

    monkeypatch.setenv("ORBIT_TOKEN", "environment")
    named = ("--host", "option", "--port", "2", "--plugins", "option")
    config, _, token = started("--role", "bridge", *files, *named)
    assert (config.host, config.port, config.plugins) == ("option", 2, ["option"])
    assert token == "environment"


def test_an_endpoint_shows_the_token_of_the_environment_and_not_of_the_file(environment, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("orbit_wrong")
    secret.chmod(0o600)
    file = tmp_path / "orbit.toml"
    file.write_text(f'[endpoint]\nname = "node"\nplugins = []\ntoken_file = "{secret}"\n')
    given = {**environment, "ORBIT_TOKEN": "orbit_right"}
    with serving(given, *BRIDGE) as bridge:
        url = bridge.stdout.readline().split()[-1]
        with serving(given, *ENDPOINT, "--config", str(file)) as endpoint:
            expected = f"endpoint node ready: linked to {url}, plugins: none\n"
            assert endpoint.stdout.readline() == expected


def test_an_endpoints_token_file_may_be_named_by_the_environment(here, monkeypatch, capsys):
    monkeypatch.setenv("ORBIT_TOKEN_FILE", "/nowhere")
    options = ["--role", "endpoint", "--name", "x", "--plugins", "", "--url", "http://x"]
    monkeypatch.setattr("sys.argv", ["orbit-serve", *options])
    with kept_logging(), pytest.raises(SystemExit):
        serve_module.main()
    assert "the token file /nowhere cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("role", "option"), [("bridge", "--url"), ("bridge", "--token-file"), ("endpoint", "--host")]
)
def test_an_option_of_the_other_role_is_refused(here, role, option):
    result = CliRunner().invoke(serve_module.serve, ["--role", role, option, "x"])
    assert result.exit_code == 2
    assert f"{option} is not for --role {role}" in result.output


def test_a_nested_fault_is_found():
    fault = Forbidden("told to leave")
    group = BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [fault])])
    assert serve_module._first(group) is fault


def test_a_json_line_without_a_failure_has_no_traceback():
    record = logging.LogRecord("some.where", logging.INFO, "", 1, "fine", (), None)
    assert "traceback" not in json.loads(serve_module._JsonLines().format(record))


def test_a_json_line_carries_a_traceback_if_there_is_one():
    try:
        raise ValueError("broken on purpose")
    except ValueError:
        record = logging.LogRecord(
            "some.where", logging.ERROR, "", 1, "%s failed", ("it",), sys.exc_info()
        )
    line = json.loads(serve_module._JsonLines().format(record))
    assert (line["level"], line["logger"], line["message"]) == ("ERROR", "some.where", "it failed")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert "ValueError: broken on purpose" in line["traceback"]


@pytest.fixture
async def joining(tmp_path):
    """Return a bridge and the settings of an endpoint that may join it."""
    async with open_deployment(tmp_path) as deployment:
        secret = tmp_path / "token"
        secret.write_text(await deployment.token(Principal("alice", Role.ENDPOINT)))
        secret.chmod(0o600)
        yield (
            deployment,
            EndpointConfig(
                name="node",
                url=deployment.url,
                plugins=[],
                token_file=secret,
                state_dir=tmp_path / "node",
            ),
        )


@pytest.mark.anyio
async def test_an_endpoint_says_when_it_is_linked_and_ends_on_a_signal(joining, capsys):
    deployment, config = joining
    before = signal.getsignal(signal.SIGTERM)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(_endpoint_role.serve, config, {})
            heard = ""

            def is_ready():
                nonlocal heard
                heard += capsys.readouterr().out
                return heard and signal.getsignal(signal.SIGTERM) is not before

            await until(is_ready)
            os.kill(os.getpid(), signal.SIGTERM)
    assert heard == f"endpoint node ready: linked to {deployment.url}, plugins: none\n"


@pytest.mark.anyio
async def test_an_endpoint_told_to_leave_ends_with_that_fault(joining):
    deployment, config = joining

    async def send_away():
        await until(lambda: "node" in deployment.bridge.registry.topology())
        await deployment.bridge.registry.shut_down("node", "enough")

    async with anyio.create_task_group() as group:
        group.start_soon(send_away)
        with anyio.fail_after(20), pytest.raises(ExceptionGroup) as told:
            await _endpoint_role.serve(config, {})
    fault = serve_module._first(told.value)
    assert isinstance(fault, Forbidden)
    assert "enough" in fault.detail
