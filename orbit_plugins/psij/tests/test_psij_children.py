"""Child endpoints on this host: real processes, a real bridge, and every way but ssh."""

import json
import os
import signal
import socket
import time
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import attrs
import click
import psutil
import pytest
from click.testing import CliRunner
from orbit_psij import PSIJClient
from orbit_psij.allocation import Walltime
from orbit_psij.batch_options import SlurmDialect
from orbit_psij.children.errors import UnknownChild
from orbit_psij.children.request import read_child
from orbit_psij.children.reverse import check_request
from orbit_psij.offer import Offer

from orbit_core import cli
from orbit_core.errors import (
    BadRequest,
    ConnectionLost,
    InvalidBody,
    InvalidName,
    NameInUse,
    OrbitError,
    StateUnavailable,
    Unprocessable,
)
from orbit_core.testing import ADMIN, BOB, open_deployment
from orbit_core.ways.models import ReverseRequest

pytestmark = pytest.mark.anyio

TARGET = "orbit_psij.plugin:PSIJPlugin"
PATIENCE = 60.0
NAME = "login.gpu"


@attrs.define(eq=False)
class Site:
    """Be a bridge with one login endpoint, and a user of it."""

    deployment: object
    login: object
    client: PSIJClient
    directory: Path

    @property
    def folders(self):
        root = self.directory / "endpoints" / "login" / "plugins" / "psij" / "children"
        return [path for path in root.iterdir() if path.is_dir()] if root.exists() else []

    async def spawn(self, name="gpu", tunnel="none", arguments=(), **spec):
        spec = {"arguments": ["--name", name, "--plugins", "", *arguments], **spec}
        return await self.client.submit_tunneled(spec, "local", tunnel)

    async def until(self, condition, name=NAME):
        with anyio.fail_after(PATIENCE):
            while not condition(found := await self.client.tunnel_status(name)):
                await anyio.sleep(0.05)
        return found

    async def until_active(self, name=NAME):
        return await self.until(lambda found: found["status"] == "active" and found["way"], name)

    async def until_clear(self, name=NAME):
        found = await self.until(lambda found: found["status"] in ("done", "failed", "no_tunnel"))
        with anyio.fail_after(PATIENCE):
            while self.folders or self.tokens():
                await anyio.sleep(0.05)
        assert processes(str(self.directory)) == []
        return found

    def children(self):
        return self.login.host.plugins.served["psij"].plugin.children

    @asynccontextmanager
    async def children_of(self, principal):
        async with self.deployment.client(principal) as client:
            yield await client.get_endpoint_client("login").get_plugin("psij")

    def tokens(self):
        return [token for token in self.deployment.bridge.tokens.list() if token.voucher]

    def linked(self):
        return [member.name for member in self.deployment.bridge.registry.members]


class SlowSpace:
    """Write a document when it may, and tell that it was asked to."""

    def __init__(self, documents):
        self._documents = documents
        self.asked = None
        self.is_asked = anyio.Event()
        self.may_go_on = anyio.Event()

    async def put(self, key, value):
        self.asked = value
        self.is_asked.set()
        await self.may_go_on.wait()
        await self._documents.put(key, value)


class FullSpace:
    """Write nothing any more."""

    async def put(self, key, value):
        raise StateUnavailable("the disk is full")


def processes(*words):
    """Return the command lines of processes in which each word occurs."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if all(word in line for word in words):
            found.append((process.pid, line))
    return found


def idle(directory):
    """Return a program that is no endpoint."""
    program = directory / "idle"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    return str(program)


async def until(condition):
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.05)


@asynccontextmanager
async def open_login(deployment, directory, **settings):
    async with (
        deployment.endpoint("login", [TARGET], settings={"psij": settings}) as login,
        deployment.client() as client,
    ):
        found = await client.get_endpoint_client("login").get_plugin(
            "psij", sid="lab", lifetime="persistent"
        )
        yield Site(deployment, login, found, directory)


@asynccontextmanager
async def open_site(directory, **settings):
    async with (
        open_deployment(directory) as deployment,
        open_login(deployment, directory, **settings) as site,
    ):
        try:
            yield site
        finally:
            for child in await site.client.list_children():
                await site.client.stop_child(child["endpoint_name"])


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path) as found:
        yield found


@pytest.mark.parametrize("tunnel", ["none", "relay", "auto"])
async def test_a_child_is_linked_under_its_parents_name_and_leaves_nothing(site, tunnel):
    made = await site.spawn(tunnel=tunnel)
    assert made["endpoint_name"] == NAME

    found = await site.until_active()

    way = {"none": "direct", "relay": "relay", "auto": "direct"}[tunnel]
    assert (found["status"], found["way"], found["reason"]) == ("active", way, None)
    assert sorted(site.linked()) == ["login", NAME]
    (token,) = site.tokens()
    assert token.endpoint == NAME

    await site.client.stop_child("gpu")

    assert (await site.until_clear())["status"] == "done"
    assert site.linked() == ["login"]


@pytest.mark.parametrize("tunnel", [True, False, 1, None, "ssh", "", ["auto"]])
async def test_another_mode_is_refused(site, tunnel):
    body = {"job_spec": {"arguments": ["-n", "gpu"]}, "tunnel": tunnel}
    with pytest.raises(BadRequest, match="tunnel must be one of none, proxy, relay") as caught:
        await site.client.post("submit_tunneled/lab", body)
    assert caught.value.status_code == 400
    assert site.folders == []


async def test_the_client_refuses_another_mode_itself(site):
    with pytest.raises(ValueError, match="tunnel must be one of"):
        await site.client.submit_tunneled({}, "local", "ssh")


@pytest.mark.parametrize("arguments", [[], ["-n"], ["--name="], ["--plugins", "sysinfo"]])
async def test_a_child_without_a_name_is_refused(site, arguments):
    with pytest.raises(Unprocessable, match=r"job_spec\.arguments names no") as caught:
        await site.client.submit_tunneled({"arguments": arguments})
    assert caught.value.status_code == 422


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["-n", "a"], "login.a"),
        (["--name", "a"], "login.a"),
        (["--name=a"], "login.a"),
        (["-n", "login.a"], "login.a"),
        (["-n", "a.b"], "login.a.b"),
        (["-n", "loginx"], "login.loginx"),
    ],
)
def test_a_childs_name_nests_under_its_parents(arguments, name):
    body = {"job_spec": {"arguments": [*arguments, "--plugins", "x"]}, "tunnel": "auto"}
    found = read_child(body, Offer(), "login")

    assert (found.endpoint_name, found.tunnel) == (name, "auto")
    assert found.submission.job_spec.arguments == ["--plugins", "x"]


@pytest.mark.parametrize("name", ["../x", "a b", "x" * 64, "-x", "a..b"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(InvalidName):
        read_child({"job_spec": {"arguments": ["-n", name]}}, Offer(), "login")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"arguments": ["-n", "a", "--url", "x"]}, "--url is set by the parent endpoint itself"),
        ({"arguments": ["-n", "a", "--token=x"]}, "--token is set by the parent endpoint itself"),
        ({"arguments": ["-n", "a"], "launcher": "mpirun"}, "launcher: a child endpoint is one"),
        ({"arguments": ["-n", "a"], "nonsense": 1}, "nonsense"),
    ],
)
def test_a_job_that_makes_no_child_is_refused(spec, words):
    with pytest.raises(InvalidBody, match=words):
        read_child({"job_spec": spec}, Offer(), "login")


def test_a_child_is_no_array():
    spec = {"arguments": ["-n", "a"], "count": 2}
    with pytest.raises(InvalidBody, match="count: a child endpoint is one job, not an array"):
        read_child(
            {"job_spec": spec, "executor": "slurm"}, Offer({"slurm": SlurmDialect()}), "login"
        )


async def test_two_children_of_one_name_are_one_too_many(site):
    await site.spawn()

    with pytest.raises(NameInUse, match=r"there is a child 'login\.gpu' already"):
        await site.spawn()

    await site.client.stop_child(NAME)
    await site.until_clear()
    await site.spawn()
    await site.until_active()


async def test_the_name_of_an_endpoint_that_is_linked_is_not_given_to_a_child(site):
    async with site.deployment.endpoint(NAME):
        await until(lambda: NAME in site.children()._linked)
        with pytest.raises(NameInUse, match=r"an endpoint 'login\.gpu' is linked already"):
            await site.spawn()


async def test_the_same_request_makes_one_child(site):
    spec = {"arguments": ["--name", "gpu", "--plugins", ""]}

    first = await site.client.submit_tunneled(spec, idempotency_key="key")

    assert await site.client.submit_tunneled(spec, idempotency_key="key") == first


async def test_who_is_no_child_has_no_tunnel(site):
    found = await site.client.tunnel_status("nobody")

    assert (found["endpoint_name"], found["status"]) == ("nobody", "no_tunnel")
    assert (found["port"], found["pid"]) == (None, None)


async def test_only_its_owner_stops_a_child(site):
    await site.spawn()
    site.deployment.bridge.registry.get("login").shared = True

    with pytest.raises(UnknownChild, match="this endpoint has no child 'other'"):
        await site.client.stop_child("other")
    async with site.children_of(BOB) as bob:
        assert await bob.list_children() == []
        with pytest.raises(UnknownChild):
            await bob.stop_child(NAME)
    async with site.children_of(ADMIN) as admin:
        assert [child["endpoint_name"] for child in await admin.list_children()] == [NAME]


async def test_a_child_that_is_killed_leaves_nothing(site):
    await site.spawn(tunnel="relay")
    await site.until_active()

    ((pid, _),) = processes("orbit_core.serve", NAME, str(site.directory))
    os.kill(pid, signal.SIGKILL)

    found = await site.until_clear()
    assert (found["status"], found["job_state"]) == ("done", "FAILED")


async def test_a_child_that_cannot_start_tells_why(site):
    await site.spawn(arguments=["--log-level", "NONSENSE"])

    found = await site.until_clear()

    assert found["status"] == "failed"
    assert found["reason"].startswith(
        "the child endpoint login.gpu ended before it was linked: exit code 2: "
        "orbit-serve: Invalid value"
    )


async def test_a_child_runs_the_set_up_and_what_the_job_names(tmp_path):
    program = tmp_path / "mine"
    program.write_text('#!/bin/sh\necho "$SETTING $1 $ORBIT_TOKEN"\nexit 3\n')
    program.chmod(0o755)
    children = {"setup": ["export SETTING='from the site'"]}
    async with open_site(tmp_path, children=children) as site:
        made = await site.spawn(
            executable=str(program), environment={"ORBIT_TOKEN": "not for the child"}
        )
        found = await site.until_clear()
        status = await site.client.wait_job(made["job_id"], PATIENCE)

    assert status["stdout"] == "from the site --role \n"
    assert "ended before it was linked: exit code 3" in found["reason"]


async def test_a_child_that_does_not_reach_the_bridge_is_given_up(tmp_path):
    async with open_site(tmp_path, children={"patience": 0.5}) as site:
        made = await site.spawn(tunnel="proxy", environment={"HTTPS_PROXY": "http://127.0.0.1:9"})
        found = await site.until_clear()
        status = await site.client.wait_job(made["job_id"], PATIENCE)

    assert (found["status"], found["way"], list(found["lost"])) == ("failed", None, ["proxy"])
    assert found["reason"].startswith(
        "the child endpoint login.gpu did not reach the bridge within 0.5 s (tunnel 'proxy'): "
        "proxy: cannot reach http://127.0.0.1:"
    )
    assert found["reason"].endswith("; tunnel 'auto' tries every way")
    assert (status["state"], status["error"]) == ("FAILED", found["reason"])


async def test_how_a_child_is_counts_once_it_is_on_disk(site):
    children = site.children()
    documents, held = children._documents, SlowSpace(children._documents)
    await site.spawn()
    children._documents = held

    try:
        with anyio.fail_after(PATIENCE):
            await held.is_asked.wait()
        assert held.asked["status"] == "active"
        assert (await documents.get(NAME))["status"] == "pending"
        assert (await site.client.tunnel_status(NAME))["status"] == "pending"
    finally:
        held.may_go_on.set()

    assert await site.until_active()
    assert (await documents.get(NAME))["status"] == "active"


async def test_a_child_lives_and_ends_although_nothing_can_be_written(site, caplog):
    children = site.children()
    await site.spawn()
    children._documents = FullSpace()

    assert (await site.until_active())["stage"] == "ready"
    await site.client.stop_child(NAME)
    assert (await site.until_clear())["status"] == "done"

    assert "how the child login.gpu is would be lost now: the disk is full" in caplog.text


async def test_a_child_that_was_given_up_is_ended_after_a_restart(tmp_path):
    async with open_deployment(tmp_path) as deployment:
        async with open_login(deployment, tmp_path) as before:
            await before.spawn(executable=idle(tmp_path))
            documents = before.children()._documents
            given_up = {"status": "failed", "reason": "it took too long"}
            await documents.put(NAME, {**await documents.get(NAME), **given_up})
        async with open_login(deployment, tmp_path) as site:
            found = await site.until_clear()
            assert (found["status"], found["reason"]) == ("failed", "it took too long")
            status = await site.client.wait_job(found["job_id"], PATIENCE)
            assert (status["state"], status["error"]) == ("FAILED", "it took too long")


async def test_a_job_that_ended_by_itself_is_not_ended_after_a_restart(tmp_path):
    program = tmp_path / "done"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    async with open_deployment(tmp_path) as deployment:
        async with open_login(deployment, tmp_path) as before:
            made = await before.spawn(executable=str(program))
            found = await before.until_clear()
            assert (found["status"], found["job_state"]) == ("failed", "COMPLETED")
            children = before.children()._documents
            journal = before.login.host.plugins.served["psij"].plugin.jobs._journal
            await journal.flush()
            # As if the process had died before it could write how the job ended.
            await children.put(NAME, {**await children.get(NAME), "is_clear": False})
            job = await journal._documents.get(made["job_id"])
            await journal._documents.put(made["job_id"], {**job, "state": "ACTIVE"})
        async with open_login(deployment, tmp_path) as site:
            status = await site.client.wait_job(made["job_id"], PATIENCE)
            assert (status["state"], status["exit_code"]) == ("COMPLETED", 0)
            await site.until(lambda found: found["is_clear"])
            status = await site.client.get_job_status(made["job_id"])
            assert (status["state"], status["error"]) == ("COMPLETED", None)


async def test_a_job_that_starts_no_child_is_given_up(tmp_path):
    async with open_site(tmp_path, children={"start_patience": 0.5}) as site:
        await site.spawn(executable=idle(tmp_path))
        found = await site.until_clear()

    assert found["reason"] == (
        "the child endpoint login.gpu did not start within 0.5 s of its job: see the job's output"
    )


async def test_a_child_whose_job_is_cancelled_early_never_had_a_tunnel(site, tmp_path):
    made = await site.spawn(executable=idle(tmp_path))

    await site.client.cancel_job(made["job_id"])

    found = await site.until_clear()
    assert (found["status"], found["reason"]) == (
        "no_tunnel", "its job was cancelled before it was linked"
    )  # fmt: skip


async def test_a_relay_that_cannot_listen_is_told_of(tmp_path):
    async with open_site(tmp_path, children={"relay_host": "192.0.2.1"}) as site:
        with pytest.raises(OrbitError, match="the relay cannot listen on"):
            await site.spawn(tunnel="relay")
        await until(lambda: not site.folders and not site.tokens())
        await site.spawn(tunnel="auto")
        assert (await site.until_active())["way"] == "direct"


@pytest.mark.parametrize("tunnel", ["none", "relay"])
async def test_a_parent_that_comes_back_finds_its_children(tmp_path, tunnel):
    async with open_deployment(tmp_path) as deployment:
        async with open_login(deployment, tmp_path) as before:
            await before.spawn(tunnel=tunnel)
            first = await before.until_active()
        async with open_login(deployment, tmp_path) as site:
            await until(lambda: sorted(site.linked()) == ["login", NAME])
            second = await site.until_active()
            assert second["job_id"] == first["job_id"]

            await site.client.stop_child(NAME)
            assert (await site.until_clear())["status"] == "done"


async def test_what_is_left_of_a_child_is_cleared_at_the_next_start(tmp_path):
    async with open_deployment(tmp_path) as deployment:
        async with open_login(deployment, tmp_path) as before:
            await before.spawn()
            await before.until_active()
            jobs = before.login.host.plugins.served["psij"].plugin.jobs
            records = jobs._journal._documents
            (job_id,) = await records.items()
        for pid, _ in processes(str(tmp_path), "run-job.sh"):
            os.killpg(pid, signal.SIGKILL)
        async with open_login(deployment, tmp_path) as site:
            found = await site.until_clear()
            assert (found["status"], found["job_id"]) == ("done", job_id)
        async with open_login(deployment, tmp_path) as again:
            assert (await again.client.tunnel_status(NAME))["status"] == "done"


async def test_a_session_that_ends_takes_its_children_with_it(site):
    await site.spawn()
    await site.until_active()

    await site.client.unregister_session()

    await until(lambda: not site.folders and not site.tokens())
    assert site.linked() == ["login"]


async def test_a_child_needs_a_bridge(user):
    reply = await user.post("submit_tunneled/lab", {"job_spec": {"arguments": ["-n", "a"]}})

    assert (reply.status_code, reply.json()["code"]) == (503, "unavailable")
    assert (await user.get("tunnel_status/test.a")).json()["status"] == "no_tunnel"


async def test_the_oldest_children_that_are_over_are_forgotten(site, monkeypatch):
    monkeypatch.setattr("orbit_psij.children.children.ENDED_KEPT", 1)
    for name in ("one", "two"):
        await site.spawn(name, executable="/bin/false")
        await site.until_clear(f"login.{name}")

    with anyio.fail_after(PATIENCE):
        while len(children := await site.client.list_children()) > 1:
            await anyio.sleep(0.05)
    assert [child["endpoint_name"] for child in children] == ["login.two"]


@pytest.mark.parametrize(
    ("request_", "nodes", "words"),
    [
        (("login.gpu", "node7"), ["node6"], "the host node7 is none of the job's: node6"),
        (("login.gpu", "node7"), [], "the host node7 is none of the job's: it has none"),
        (("login.other", "node7"), ["node7"], "the request is for 'login.other'"),
        (("login.gpu", "-oX"), ["-oX"], "is not a valid name"),
    ],
)
def test_a_request_for_a_tunnel_to_another_host_is_refused(request_, nodes, words):
    with pytest.raises(OrbitError, match=words):
        check_request(ReverseRequest("id", *request_), NAME, nodes)


def test_a_tunnel_goes_to_a_node_of_the_job():
    nodes = ["node6.example.org", "node7"]
    for host in ("node6", "node6.example.org", "node7", "node7.example.org"):
        assert check_request(ReverseRequest("id", NAME, host), NAME, nodes) == host


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """Put an ssh on PATH that only says where it would forward to: on this host that is enough."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)

    def install(script):
        (folder / "ssh").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "ssh").chmod(0o755)

    install(
        'while [ "$1" != -R ]; do shift; done\n'
        'echo "Allocated port ${2##*:} for remote forward to the bridge" >&2\n'
        "exec sleep 600"
    )
    return install


async def test_a_child_comes_through_a_tunnel_that_its_parent_opens(site, ssh):
    await site.spawn(tunnel="reverse")

    found = await site.until_active()

    assert found["way"] == "reverse"
    assert psutil.Process(found["pid"]).is_running()
    os.kill(found["pid"], signal.SIGKILL)
    await site.client.stop_child(NAME)
    assert (await site.until_clear())["status"] == "done"
    assert not psutil.pid_exists(found["pid"])


async def test_requests_for_tunnels_are_taken_with_care(site, ssh, tmp_path, monkeypatch):
    monkeypatch.setattr("orbit_psij.children.reverse.LOOK_INTERVAL", 0.01)
    ssh("echo no such host >&2; exit 255")
    await site.spawn(tunnel="reverse", executable=idle(tmp_path))
    (folder,) = site.folders

    def ask(text):
        (folder / "draft").write_text(text)
        (folder / "draft").replace(folder / "request")

    async def answer(number, hostname):
        ask(json.dumps({"id": number, "endpoint_name": NAME, "hostname": hostname}))
        with anyio.fail_after(PATIENCE):
            while True:
                if (folder / "answer").exists():
                    found = json.loads((folder / "answer").read_text())
                    if found["request"] == number:
                        return found["port"], found["reason"]
                await anyio.sleep(0.01)

    ask("{nonsense")
    host = socket.gethostname()
    assert await answer("1", "node7") == (None, f"the host node7 is none of the job's: {host}")
    assert await answer("2", host) == (None, f"ssh to {host}: no such host")
    (folder / "report").write_text("{nonsense")
    await site.client.stop_child(NAME)
    await site.until_clear()


async def test_a_bridge_that_is_away_does_not_keep_a_child(site, monkeypatch):
    monkeypatch.setattr("orbit_psij.children.tokens.RETRY_INTERVAL", 0.01)
    await site.spawn(attributes={"duration": 600})
    await site.until_active()
    (token,) = site.tokens()
    assert token.expires < time.time() + 1000
    calls = []
    hub = site.children()._context.hub
    request = hub.request

    async def away(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            monkeypatch.setattr(hub, "request", request)
        raise ConnectionLost("away")

    monkeypatch.setattr(hub, "request", away)
    await site.client.stop_child(NAME)

    await site.until_clear()
    assert calls == [("DELETE", f"/endpoint/children/{NAME}")] * 2


@pytest.fixture
def orbit(site, monkeypatch):
    async def run(*arguments, status=0):
        monkeypatch.setenv("ORBIT_URL", site.deployment.url)
        monkeypatch.setenv("ORBIT_TOKEN", await site.deployment.token())
        with anyio.fail_after(PATIENCE):
            result = await anyio.to_thread.run_sync(
                lambda: CliRunner().invoke(cli.orbit, arguments)
            )
        assert result.exit_code == status, (result.output, result.exception)
        return result

    return run


async def test_a_child_is_started_listed_and_stopped_from_a_shell(site, orbit):
    options = ("--name", "gpu", "--time", "1h", "--plugins", "")
    done = await orbit("spawn", "login", *options, "--tunnel", "relay")

    assert done.stdout == "login.gpu is ready, by the way relay\n"
    stages = done.stderr.strip().removeprefix("login.gpu: ").split(" -> ")
    assert stages[-1] == "ready"
    assert set(stages) <= {"queued", "running", "linking", "ready"}
    (row,) = json.loads((await orbit("children", "--json")).stdout)
    assert (row["endpoint_name"], row["stage"], row["way"]) == (NAME, "ready", "relay")

    assert (await orbit("stop", "gpu")).stdout == "login.gpu is done\n"

    lines = (await orbit("children", "login")).stdout.splitlines()
    assert lines[1].split()[:3] == [NAME, "over", "relay"]
    assert site.folders == []
    gone = await orbit("stop", "gpu", status=1)
    assert gone.stderr == "Error: there is no child 'gpu': orbit children lists them\n"


async def test_both_speak_json(site, orbit):
    made = await orbit("spawn", "login", "--name", "gpu", "--plugins", "", "--json")
    found = json.loads(made.stdout)
    assert (found["endpoint_name"], found["status"], found["stage"]) == (NAME, "active", "ready")
    assert made.stderr == ""

    found = json.loads((await orbit("stop", NAME, "--login", "login", "--json")).stdout)
    assert (found["status"], found["is_clear"]) == ("done", True)


async def test_a_child_that_fails_is_told_of_in_the_shell(orbit):
    done = await orbit("spawn", "login", "--name", "gpu", "--plugins", "nonsense", status=1)

    assert "Error: the child endpoint login.gpu ended before it was linked" in done.stderr


async def test_a_short_name_may_be_of_two_children(site, orbit):
    async with site.deployment.endpoint("other", [TARGET]), site.deployment.client() as client:
        await site.spawn()
        found = await client.get_endpoint_client("other").get_plugin("psij")
        await found.submit_tunneled({"arguments": ["-n", "gpu", "--plugins", ""]})
        done = await orbit("stop", "gpu", status=1)
        assert done.stderr == "Error: 'gpu' may be login.gpu, other.gpu: give the whole name\n"
        assert (await orbit("stop", "other.gpu")).stdout.startswith("other.gpu is ")


async def test_an_endpoint_that_does_not_answer_is_told_of(site, orbit):
    async with site.deployment.endpoint("foreign", [TARGET], owner="bob"):
        done = await orbit("children")
        assert done.stderr.startswith("foreign: endpoint foreign takes calls of its owner alone")
        await orbit("children", "foreign", status=1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("1h", 3600), ("1h30m", 5400), ("2d", 172800)],
)
def test_a_walltime_has_units(text, seconds):
    assert Walltime().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0", "1x", "h", "1 h", "-5"])
def test_what_is_no_walltime_is_refused(text):
    with pytest.raises(click.BadParameter, match="is no duration, such as 90s, 30m, 1h or 2d"):
        Walltime().convert(text, None, None)


async def test_a_child_without_a_job_is_cleared_away_at_the_next_start(tmp_path):
    async with open_deployment(tmp_path) as deployment:
        async with open_login(deployment, tmp_path) as before:
            documents = before.children()._documents
            for name, status in (("login.queued", "pending"), ("login.linked", "active")):
                record = {"endpoint_name": name, "folder": name, "tunnel": "auto",
                          "created": 1.0, "status": status}  # fmt: skip
                await documents.put(name, record)
            await documents.put("login.bad", {"endpoint_name": 1})
            (before.children()._folders / "login.queued").mkdir()
        async with open_login(deployment, tmp_path) as site:
            linked = await site.until(lambda found: found["is_clear"], "login.linked")
            queued = await site.until(lambda found: found["is_clear"], "login.queued")
            assert (linked["status"], queued["status"]) == ("done", "no_tunnel")
            assert queued["reason"] == "its job is not known any more"
            assert site.folders == []
            assert (await site.client.tunnel_status("login.bad"))["status"] == "no_tunnel"


async def test_a_folder_that_cannot_be_made_is_told_of(site):
    site.children()._folders.rmdir()
    site.children()._folders.touch()

    with pytest.raises(StateUnavailable, match="the child has no folder"):
        await site.spawn()

    site.children()._folders.unlink()
    site.children()._folders.mkdir()
    await site.until(lambda found: found["status"] == "no_tunnel")
