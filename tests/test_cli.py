import json
import os
import re
import signal
import sys
from contextlib import suppress

import anyio
import anyio.to_thread
import pytest
from click.testing import CliRunner

from orbit_core import cli
from orbit_core.client import Event, client_class
from orbit_core.errors import Forbidden, OrbitError, UnknownEndpoint
from orbit_core.plugin_client import PluginClient
from orbit_core.testing import ADMIN, ALICE
from tests.offering import offer
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def orbit(deployment, monkeypatch):
    monkeypatch.setenv("ORBIT_URL", deployment.url)

    async def run(*arguments, principal=ADMIN, stdin=None, status=0):
        monkeypatch.setenv("ORBIT_TOKEN", await deployment.token(principal))
        with anyio.fail_after(20):
            result = await anyio.to_thread.run_sync(
                lambda: CliRunner().invoke(cli.orbit, arguments, input=stdin)
            )
        if isinstance(result.exception, OrbitError):
            raise result.exception
        assert result.exit_code == status, result.output
        return result.output

    return run


async def test_endpoints_are_a_table_or_json(orbit):
    lines = (await orbit("endpoints")).splitlines()
    assert [line.split() for line in lines] == [
        ["NAME", "ROLE", "LIVENESS", "PLUGINS"],
        ["node", "standalone", "present", "probe"],
    ]
    assert json.loads(await orbit("endpoints", "--json"))[0]["name"] == "node"


async def test_plugins_are_told_with_their_states(orbit):
    lines = (await orbit("plugins", "node")).splitlines()
    assert lines[1].split() == ["probe", "probe", "served", "1.2"]
    assert isinstance(json.loads(await orbit("plugins", "--json")), list)


async def test_a_route_is_called_with_and_without_data(orbit):
    assert json.loads(await orbit("call", "node/probe/item/7")) == {"item": "7"}
    assert json.loads(await orbit("call", "/node/probe/sink", "-d", '{"a":1}')) == {"size": 7}
    found = await orbit("call", "node/probe/echo", "-d", "-", "-X", "put", stdin="[1]")
    assert json.loads(found)["method"] == "PUT"
    assert json.loads(found)["body"] == "[1]"


async def test_data_that_is_no_json_is_wrong_usage(orbit):
    assert "not JSON" in await orbit("call", "node/x", "-d", "{", status=2)


async def test_an_error_comes_in_its_type(orbit):
    with pytest.raises(UnknownEndpoint):
        await orbit("call", "nobody/x")
    with pytest.raises(Forbidden):
        await orbit("token", "list", principal=ALICE)


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
async def test_events_are_followed_one_a_line(orbit, deployment, form):
    found = []

    async def follow():
        found.append(await orbit("events", "--count", "1", *form))

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        async with deployment.client() as client:
            await until(lambda: deployment.bridge.ring.listeners)
            await client.request("POST", "/node/probe/notify", {"data": 1})
    first, *_, last = found[0].splitlines()
    if form:
        assert json.loads(first)["topic"] == "topology"
        assert json.loads(last)["data"]["data"] == 1
    else:
        assert first == "topology: node"
        assert last == "node/probe news 1"


def test_a_gap_is_a_line(capsys):
    cli._print_event(Event("gap", {"lost": 3}), False)
    assert capsys.readouterr().out == 'gap: {"lost": 3}\n'


async def test_tokens_are_made_listed_and_revoked(orbit):
    text = (await orbit("token", "create", "--owner", "carol", "--expires", "60")).strip()
    assert text.startswith("orbit_")
    listed = await orbit("token", "list")
    assert text not in listed
    assert re.search(r" carol +- +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\n", listed)
    rows = json.loads(await orbit("token", "list", "--json"))
    (identity,) = [row["id"] for row in rows if row["owner"] == "carol"]
    assert await orbit("token", "revoke", identity) == f"token {identity} is revoked\n"
    assert identity not in await orbit("token", "list")


async def test_endpoint_and_bridge_are_told_to_stop(orbit, deployment):
    assert await orbit("disconnect", "node") == "node was told to leave\n"
    assert json.loads(await orbit("terminate", "--json")) == {"status": "terminating"}
    assert deployment.bridge.stopped.is_set()


async def test_the_token_may_come_from_a_file(orbit, deployment, tmp_path):
    path = tmp_path / "token"
    path.write_text(await deployment.token(ALICE))
    path.chmod(0o600)
    assert "node" in await orbit("--token-file", str(path), "endpoints")


def test_the_plugins_commands_are_listed_with_the_cores():
    result = CliRunner().invoke(cli.orbit, ["--help"])
    assert result.exit_code == 0
    assert {"endpoints", "call", "token"} <= set(result.output.split())
    assert CliRunner().invoke(cli.orbit, ["nothing"]).exit_code == 2


def test_a_failure_is_one_line_and_exits_1(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["orbit", "--url", "ftp://x", "endpoints"])
    monkeypatch.setenv("ORBIT_TOKEN_FILE", "/nowhere")
    monkeypatch.delenv("ORBIT_TOKEN", raising=False)
    with pytest.raises(SystemExit) as told:
        cli.main()
    assert told.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("orbit: ")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (["endpoints", "--x"], 2, "No such option '--x' (see orbit endpoints --help)"),
        (["nothing"], 2, "No such command 'nothing' (see orbit --help)"),
        (["disconnect"], 2, "Missing argument 'ENDPOINT' (see orbit disconnect --help)"),
        (
            ["token", "create", "--owner", "a", "--role", "king"],
            2,
            "Invalid value for '--role': 'king' is not one of 'client', 'endpoint', 'admin' "
            "(see orbit token create --help)",
        ),
        (
            ["call", "a/b", "-d", "{"],
            2,
            "Invalid value for --data: not JSON: Expecting property name enclosed in double "
            "quotes: line 1 column 2 (char 1) (see orbit call --help)",
        ),
        (["--url", "ftp://x", "endpoints"], 1, "'ftp://x' is no bridge URL: write it as "
         "https://HOST:PORT or http://…"),
    ],
    ids=["option", "command", "argument", "choice", "data", "ours"],
)  # fmt: skip
def test_every_error_is_one_line_that_begins_with_the_program(
    monkeypatch, capsys, arguments, status, line
):
    monkeypatch.setattr("sys.argv", ["orbit", *arguments])
    with pytest.raises(SystemExit) as told:
        cli.main()
    assert (told.value.code, capsys.readouterr().err) == (status, f"orbit: {line}\n")


def test_a_commands_own_failure_begins_with_the_program(tmp_path, monkeypatch, capsys):
    offer(tmp_path, monkeypatch, "[orbit.commands]\nfaulty = no_such_module:group\n")
    monkeypatch.setattr("sys.argv", ["orbit", "faulty"])
    with pytest.raises(SystemExit) as told:
        cli.main()
    assert told.value.code == 1
    assert capsys.readouterr().err.startswith("orbit: the command faulty cannot be loaded: ")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"]])
def test_help_is_no_error(monkeypatch, capsys, arguments):
    monkeypatch.setattr("sys.argv", ["orbit", *arguments])
    with pytest.raises(SystemExit) as told:
        cli.main()
    assert told.value.code == (0 if arguments else 2)
    found = capsys.readouterr()
    assert re.match("Usage: orbit |orbit, version ", found.out + found.err)


INTERRUPTIBLE = """
import signal
from orbit_core.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
main()
"""


async def test_an_interrupt_ends_what_follows_without_a_word(deployment):
    command = [sys.executable, "-c", INTERRUPTIBLE, "events"]
    settings = {"ORBIT_URL": deployment.url, "ORBIT_TOKEN": await deployment.token()}
    async with await anyio.open_process(command, env={**os.environ, **settings}) as process:
        try:
            with anyio.fail_after(30):
                assert await process.stdout.receive() == b"topology: node\n"
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 130
                said = [chunk async for chunk in process.stderr]
        finally:
            with suppress(ProcessLookupError):
                process.kill()
    assert b"".join(said).strip() == b""


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("group = (", "SyntaxError: '(' was never closed"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("group = 7", "faulty_command:group is no command but of type int"),
    ],
    ids=["no import", "no Python", "exits", "no command"],
)
def test_a_plugins_command_that_cannot_be_loaded_is_told_and_harms_no_other(
    tmp_path, monkeypatch, module, reason
):
    monkeypatch.delitem(sys.modules, "faulty_command", raising=False)
    (tmp_path / "faulty_command.py").write_text(module)
    offer(tmp_path, monkeypatch, "[orbit.commands]\nfaulty = faulty_command:group\n")
    listed = CliRunner().invoke(cli.orbit, ["--help"], terminal_width=300)
    assert listed.exit_code == 0
    assert re.search(r"^  faulty +Broken: ", listed.output, re.MULTILINE)
    result = CliRunner().invoke(cli.orbit, ["faulty", "submit", "--fast"])
    assert result.exit_code == 1
    assert "the command faulty cannot be loaded: " in result.output
    assert reason in result.output


def test_a_plugins_client_that_cannot_be_loaded_is_a_plain_one(tmp_path, monkeypatch, caplog):
    offer(tmp_path, monkeypatch, "[orbit.clients]\nfaulty = no_such_module:Client\n")
    assert client_class("faulty") is PluginClient
    assert "the plugin faulty has a plain client here: no_such_module:Client" in caplog.text
