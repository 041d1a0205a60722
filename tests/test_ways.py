"""The ways of a child to a real bridge; only ssh is played."""

import json
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import anyio
import attrs
import psutil
import pytest

from orbit_core._dial import Credentials, dial
from orbit_core.config import Access, EndpointConfig
from orbit_core.errors import ConnectionLost, InvalidBody, NoRoute, Unauthorized
from orbit_core.models import Principal, Role
from orbit_core.testing import open_deployment
from orbit_core.ways import address, leash
from orbit_core.ways.child import ChildWays
from orbit_core.ways.models import (
    Plan,
    RelayAddress,
    Report,
    ReverseAnswer,
    ReverseRequest,
    Route,
)
from orbit_core.ways.reach import Reach
from orbit_core.ways.relay import Relay
from orbit_core.ways.relaying import read_credentials, relay_key
from orbit_core.ways.rendezvous import Rendezvous
from orbit_core.ways.ssh import SSHSettings, open_forward, open_reverse

from .connect_proxy import open_proxy
from .waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("plain_environment")]

NAME = "login.gpu"
FAKE = Path(__file__).with_name("fake_ssh.py")


@pytest.fixture
def plain_environment(monkeypatch):
    """Name no proxy, no scheduler, and try nothing for long."""
    for variable in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "no_proxy",
                     "NO_PROXY", "PBS_O_HOST", "SLURM_SUBMIT_HOST", "SLURMD_NODENAME"):  # fmt: skip
        monkeypatch.delenv(variable, raising=False)
    for place in ("child.ATTEMPT", "child.FORWARD_PATIENCE", "child.REVERSE_PATIENCE"):
        monkeypatch.setattr(f"orbit_core.ways.{place}", 3.0)
    monkeypatch.setattr("orbit_core.ways.child.LOOK_INTERVAL", 0.01)


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """Put the played ssh on PATH, and return what makes it moody."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SSH_LOG", str(tmp_path / "ssh.log"))
    return lambda mood: monkeypatch.setenv("FAKE_SSH", mood)


@attrs.define(eq=False)
class Child:
    """Be a child that reaches a bridge by a way, from a folder that it shares with its parent."""

    deployment: object
    meeting: Rendezvous
    access: Access

    def ways(self, via=None):
        return ChildWays(NAME, self.access.url, self.access.token, self.meeting, via)

    def reach(self, tunnel, via="login"):
        config = EndpointConfig(tunnel=tunnel, tunnel_via=via, tunnel_dir=self.meeting.directory)
        return Reach.of(NAME, self.access, config)

    @asynccontextmanager
    async def linked(self, reach):
        async with reach.link(self.access, Credentials(NAME, "p", None, 0)):
            names = [member.name for member in self.deployment.bridge.registry.members]
            assert names == [NAME]
            yield

    async def report(self):
        return await self.meeting.read("report", Report)


@pytest.fixture
async def child(tmp_path):
    folder = tmp_path / "meeting"
    folder.mkdir()
    async with open_deployment(tmp_path) as deployment:
        token = await deployment.token(Principal("alice", Role.ENDPOINT, endpoint=NAME))
        yield Child(deployment, Rendezvous(folder), Access(deployment.url, token))


@asynccontextmanager
async def serving(function, *arguments):
    async with anyio.create_task_group() as group:
        group.start_soon(function, *arguments)
        yield
        group.cancel_scope.cancel()


async def answer_with(child, **answer):
    """Be a parent that answers a request for a tunnel."""
    while (request := await child.meeting.read("request", ReverseRequest)) is None:
        await anyio.sleep(0.01)
    await child.meeting.write("answer", ReverseAnswer(request.id, **answer))


async def test_a_child_that_is_told_nothing_dials_as_every_endpoint(child):
    reach = Reach.of(NAME, child.access, EndpointConfig())

    async with child.linked(reach):
        assert await child.report() is None


async def test_a_child_reports_how_it_begins_and_how_it_goes(child):
    async with child.linked(child.reach("none")):
        assert await child.report() == Report("direct")


async def test_a_bridge_that_is_away_is_reported(child):
    away = Access("http://127.0.0.1:9", child.access.token)
    with pytest.raises(ConnectionLost, match=r"cannot reach http://127\.0\.0\.1:9"):
        async with child.reach("none").link(away, Credentials(NAME, "p", None, 0)):
            pass
    assert list((await child.report()).lost) == ["direct"]


async def test_a_child_goes_through_the_proxy_of_the_site(child, monkeypatch):
    async with open_proxy(secret="me:p@ss") as proxy:
        monkeypatch.setenv("https_proxy", proxy.url("me:p%40ss"))
        async with child.linked(child.reach("proxy")):
            assert proxy.targets == [address.joined(*address.host_and_port(child.access.url))]
            assert await child.report() == Report("proxy")


async def test_a_proxy_that_wants_another_password_is_told_of_without_it(child, monkeypatch):
    async with open_proxy(secret="me:right") as proxy:
        monkeypatch.setenv("https_proxy", proxy.url("me:wrong"))
        with pytest.raises(NoRoute, match="proxy rejected connection: HTTP 407") as caught:
            async with child.linked(child.reach("proxy")):
                pass
    assert "wrong" not in caught.value.detail


async def test_a_proxy_whose_address_is_none_is_told_of_without_its_password(child):
    route = Route(proxy="http://me:secret@host/path")
    with pytest.raises(NoRoute, match="the address of the proxy cannot be used: path") as caught:
        async with dial(child.access, Credentials(NAME, "p", None, 0), route):
            pass
    assert "secret" not in caught.value.detail


async def test_a_site_that_names_no_proxy_is_told_so(child):
    with pytest.raises(NoRoute, match="no proxy is named on the compute node: set HTTPS_PROXY"):
        async with child.linked(child.reach("proxy")):
            pass


@pytest.mark.parametrize("hosts", [["127.0.0.1"], ["host.invalid", "127.0.0.1"]])
async def test_a_child_goes_through_its_parents_relay(child, hosts):
    key = relay_key(child.access.token)
    relay = Relay(child.access.url, lambda *shown: shown == (NAME, key))
    await relay.listen("127.0.0.1", 0, None, None)
    await child.meeting.write("relay", RelayAddress(hosts, relay.port))
    async with serving(relay.run), child.linked(child.reach("relay")):
        assert await child.report() == Report("relay")


async def test_a_relay_that_is_not_there_is_told_of(child):
    with pytest.raises(NoRoute, match="the parent endpoint has no relay open: is it running"):
        async with child.linked(child.reach("relay")):
            pass
    await child.meeting.write("relay", RelayAddress(["127.0.0.1"], 9))
    with pytest.raises(NoRoute, match=r"no TCP connection from \S+ to port 9 of the parent's host"):
        async with child.linked(child.reach("relay")):
            pass


async def test_what_is_no_address_is_told_of(child):
    (child.meeting.directory / "relay").write_text('{"port": "x"}')

    with pytest.raises(NoRoute, match="what the parent left is not to be used"):
        async with child.linked(child.reach("relay")):
            pass


async def test_a_child_forwards_a_port_through_the_login_host(child, ssh, tmp_path):
    plan = Plan("other", ["-F", "config"], "/known hosts", trust_new_hosts=False)
    await child.meeting.write("plan", plan)

    async with child.linked(child.reach("forward")):
        report = await child.report()

    assert (report.way, psutil.pid_exists(report.pid)) == ("forward", False)
    command = (tmp_path / "ssh.log").read_text()
    assert command.startswith('-N -v -o StrictHostKeyChecking=yes -o UserKnownHostsFile="/known ')
    target = child.access.url.removeprefix("http://")
    assert command.endswith(f"-F config -L 127.0.0.1:{report.port}:{target} -- login\n")


@pytest.mark.parametrize(
    ("via", "plan", "variable", "host"),
    [
        ("login", "planned", "submitted", "login"),
        (None, "planned", "submitted", "planned"),
        (None, None, "submitted", "submitted"),
    ],
    ids=["told", "planned", "scheduler"],
)
async def test_the_login_host_is_the_nearest_that_is_named(
    child, ssh, tmp_path, monkeypatch, via, plan, variable, host
):
    monkeypatch.setenv("SLURM_SUBMIT_HOST", variable)
    if plan is not None:
        await child.meeting.write("plan", Plan(plan))

    async with child.linked(child.reach("forward", via)):
        pass

    command = (tmp_path / "ssh.log").read_text()
    assert command.endswith(f" -- {host}\n")
    assert "StrictHostKeyChecking=accept-new" in command


@pytest.mark.parametrize("via", [None, "-oProxyCommand=x"])
async def test_no_login_host_is_no_way(child, ssh, via):
    with pytest.raises(NoRoute, match="no login host is named: say --tunnel-via HOST"):
        async with child.linked(child.reach("forward", via)):
            pass


async def test_a_child_asks_its_parent_for_a_tunnel(child):
    port = address.host_and_port(child.access.url)[1]
    async with serving(lambda: answer_with(child, port=port)):
        async with child.linked(child.reach("reverse")):
            assert await child.report() == Report("reverse", port)
            request = json.loads((child.meeting.directory / "request").read_text())
            assert (request["endpoint_name"], request["hostname"]) == (NAME, socket.gethostname())

        assert not (child.meeting.directory / "request").exists()


async def test_a_parent_that_opens_no_tunnel_is_told_of(child, monkeypatch):
    async with serving(lambda: answer_with(child, reason="it does not want to")):
        with pytest.raises(NoRoute, match="the parent opens no tunnel: it does not want to"):
            async with child.linked(child.reach("reverse")):
                pass
    monkeypatch.setattr("orbit_core.ways.child.REVERSE_PATIENCE", 0.1)
    with pytest.raises(NoRoute, match=r"the parent opened no tunnel to \S+ within 0.1 s"):
        async with child.linked(child.reach("reverse")):
            pass


async def test_the_first_open_way_is_gone_and_the_same_way_the_next_time(child, ssh):
    away = attrs.evolve(child.access, url="http://127.0.0.1:9")
    reach = Reach(["direct", "relay", "forward"], child.ways("login"))

    async def through(key):
        async with reach.link(away, Credentials(NAME, "p", key, 0)) as (_, answer):
            report = await child.report()
            return report.way, set(report.lost), answer.resume_key

    way, lost, key = await through(None)
    assert (way, lost) == ("forward", {"direct", "relay"})
    assert (await through(key))[:2] == ("forward", set())


async def test_where_no_way_is_open_each_says_why(child):
    reach = child.reach("auto", None)
    reach._ways = attrs.evolve(reach._ways, url="http://127.0.0.1:9")
    async with serving(lambda: answer_with(child, reason="no")):
        with pytest.raises(NoRoute) as caught:
            async with reach.link(Access("http://127.0.0.1:9"), Credentials(NAME, "p", None, 0)):
                pass

    said = caught.value.detail.split("; ")
    assert [text.split(":")[0] for text in said] == [
        "direct", "proxy", "relay", "forward", "reverse"
    ]  # fmt: skip
    assert list((await child.report()).lost) == [text.split(":")[0] for text in said]


async def test_a_refusal_of_the_bridge_is_no_matter_of_the_way(child):
    access = attrs.evolve(child.access, token="wrong")
    with pytest.raises(Unauthorized):
        async with child.reach("auto").link(access, Credentials(NAME, "p", None, 0)):
            pass
    assert list((await child.report()).lost) == ["direct"]


PORTAL = (b"HTTP/1.1 %s\r\nContent-Type: text/html\r\n%sContent-Length: 6\r\n"
          b"Connection: close\r\n\r\n<html>")  # fmt: skip


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (b"200 OK", b"", "HTTP 200 OK"),
        (b"302 Found", b"Location: http://portal/login\r\n",
         "HTTP 302 Found, see http://portal/login"),
        (b"307 Moved", b"Location: //portal/login\r\n", "HTTP 307 Moved, see //portal/login"),
        (b"401 Unauthorized", b"WWW-Authenticate: Basic\r\n", "HTTP 401 Unauthorized"),
        (b"403 Forbidden", b"Retry-After: 1\r\nRetry-After: 2\r\n", "HTTP 403 Forbidden"),
        (b"502 Bad Gateway", b"", "HTTP 502 Bad Gateway"),
    ],
    ids=["page", "redirect", "other-host", "password", "forbidden", "gateway"],
)  # fmt: skip
async def test_a_portal_in_place_of_the_bridge_is_a_way_that_is_not_open(
    child, ssh, status, headers, said
):
    async with open_proxy(answer=PORTAL % (status, headers)) as portal:
        url = portal.url()
        reach = Reach(["direct", "forward"], child.ways("login"))
        access = attrs.evolve(child.access, url=url)
        async with reach.link(access, Credentials(NAME, "p", None, 0)):
            report = await child.report()

    assert (report.way, list(report.lost)) == ("forward", ["direct"])
    reason = f"something other than an ORBIT bridge answers for {url}: {said}"
    assert report.lost["direct"] == reason


async def test_a_portal_on_the_only_way_is_tried_again_and_not_final(child):
    async with open_proxy(answer=PORTAL % (b"403 Forbidden", b"")) as portal:
        access = attrs.evolve(child.access, url=portal.url())
        with pytest.raises(NoRoute, match="something other than an ORBIT bridge answers"):
            async with child.reach("none").link(access, Credentials(NAME, "p", None, 0)):
                pass


@pytest.mark.parametrize("status", [b"403 Forbidden", b"502 Bad Gateway", b"200 OK"])
async def test_a_proxy_that_leads_to_no_bridge_is_a_way_that_is_not_open(
    child, ssh, monkeypatch, status
):
    async with open_proxy(answer=PORTAL % (status, b"")) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url())
        reach = Reach(["proxy", "forward"], child.ways("login"))
        async with child.linked(reach):
            report = await child.report()

    assert (report.way, list(report.lost)) == ("forward", ["proxy"])


async def test_a_report_that_cannot_be_left_changes_nothing(child):
    child.meeting.directory.rmdir()

    async with child.linked(child.reach("none")):
        assert await child.report() is None


async def test_a_file_of_the_other_side_is_read_with_care(tmp_path):
    meeting = Rendezvous(tmp_path)
    (tmp_path / "plan").write_text("{nonsense")
    (tmp_path / "relay").mkdir()

    with pytest.raises(InvalidBody, match="plan is not JSON"):
        await meeting.read("plan", Plan)
    assert await meeting.read("relay", RelayAddress) is None
    await meeting.remove("absent")


SETTINGS = SSHSettings("/known")


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        ("refuse", r"^ssh to login: Permission denied \(publickey\)\.$"),
        ("hang", r"^ssh to login: it said nothing \(not open within 0.5 s\)$"),
        ("babble", "^ssh to login: it said nothing$"),
    ],
)
async def test_an_ssh_that_opens_nothing_is_told_of_in_its_own_words(ssh, mood, words):
    ssh(mood)
    patience = 0.5 if mood == "hang" else 10.0
    with pytest.raises(NoRoute, match=words):
        async with open_reverse(SETTINGS, "login", "127.0.0.1:9", patience=patience):
            pass


async def test_no_ssh_is_no_tunnel(monkeypatch):
    monkeypatch.setattr("orbit_core.ways.ssh.sys.executable", "/no/python")
    with pytest.raises(NoRoute, match="ssh cannot be started"):
        async with open_reverse(SETTINGS, "login", "127.0.0.1:9", patience=5):
            pass


async def test_an_ssh_that_ends_is_noticed(ssh):
    ssh("end")
    async with open_forward(
        SETTINGS, "login", address.free_port(), "127.0.0.1:9", patience=10
    ) as tunnel:
        with anyio.fail_after(10):
            await tunnel.ended.wait()


async def test_an_ssh_that_does_not_end_is_killed(ssh, monkeypatch):
    ssh("stubborn")
    monkeypatch.setattr("orbit_core.ways.ssh.END_PATIENCE", 0.1)
    async with open_reverse(SETTINGS, "login", "127.0.0.1:9", patience=10) as tunnel:
        assert psutil.pid_exists(tunnel.pid)
    assert not psutil.pid_exists(tunnel.pid)


async def test_ssh_ends_with_a_process_that_is_killed(ssh, tmp_path):
    program = (
        "import anyio\n"
        "from orbit_core.ways.ssh import SSHSettings, open_reverse\n"
        "async def main():\n"
        "    async with open_reverse(SSHSettings('/k'), 'h', 'l:9', patience=10) as found:\n"
        "        print(found.pid, flush=True)\n"
        "        await anyio.sleep_forever()\n"
        "anyio.run(main)\n"
    )
    async with await anyio.open_process([sys.executable, "-c", program]) as owner:
        with anyio.fail_after(20):
            pid = int(await owner.stdout.receive())
        assert psutil.pid_exists(pid)
        owner.send_signal(signal.SIGKILL)
        await owner.wait()
    await until(lambda: not psutil.pid_exists(pid))


async def test_a_leash_whose_holder_is_gone_starts_nothing():
    leash = [sys.executable, str(address.__file__).replace("address.py", "leash.py")]
    done = await anyio.run_process([*leash, "1", "echo", "started"], check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"its parent is gone\n")


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_leash_becomes_the_command(monkeypatch, platform):
    asked, became = [], []
    monkeypatch.setattr(leash.ctypes, "CDLL", lambda _: SimpleNamespace(prctl=record(asked)))
    monkeypatch.setattr(leash.sys, "platform", platform)
    monkeypatch.setattr(leash.sys, "argv", ["leash.py", str(os.getppid()), "ssh", "-N"])
    monkeypatch.setattr(leash.os, "execvp", record(became))

    leash.main()

    assert became == [("ssh", ["ssh", "-N"])]
    assert asked == ([(1, signal.SIGTERM)] if platform == "linux" else [])
    monkeypatch.setattr(leash.sys, "argv", ["leash.py", "1", "ssh"])
    with pytest.raises(SystemExit, match="its parent is gone"):
        leash.main()


def record(calls):
    return lambda *arguments: calls.append(arguments)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://host", "host:80"),
        ("https://host", "host:443"),
        ("wss://host/x", "host:443"),
        ("https://[::1]:8443/", "[::1]:8443"),
    ],
)
def test_a_bridge_is_at_its_own_port_or_that_of_its_scheme(url, place):
    assert address.joined(*address.host_and_port(url)) == place


@pytest.mark.parametrize(
    ("url", "proxies", "proxy"),
    [
        ("https://b", {"https_proxy": "http://p:1", "http_proxy": "http://q:1"}, "http://p:1"),
        ("https://b", {"http_proxy": "http://q:1"}, None),
        ("http://b", {"http_proxy": "http://q:1"}, "http://q:1"),
        ("https://b", {"https_proxy": "http://p:1", "no_proxy": "b"}, None),
        ("https://b", {"https_proxy": "socks5://p:1"}, None),
    ],
)
def test_the_proxy_for_a_bridge_is_the_one_that_the_site_names(monkeypatch, url, proxies, proxy):
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)

    assert address.named_proxy(url) == proxy


def test_a_host_knows_its_names_and_addresses(monkeypatch):
    found = {"lo": ["127.0.0.1", "::1"], "eth0": ["10.1.2.3", "fe80::1%eth0", "2001:db8::1"]}
    family = {True: socket.AF_INET6, False: socket.AF_INET}
    monkeypatch.setattr(
        "orbit_core.ways.address.psutil.net_if_addrs",
        lambda: {
            name: [SimpleNamespace(address=each, family=family[":" in each]) for each in addresses]
            for name, addresses in found.items()
        },
    )
    assert address.own_addresses() == [socket.gethostname(), "10.1.2.3", "2001:db8::1"]
    assert address.own_node_name() == socket.gethostname()
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    assert address.own_node_name() == "node7"


@pytest.mark.parametrize("header", ["", "Bearer x", "Basic !", "Basic /w=="])
def test_credentials_that_are_none_are_empty(header):
    assert read_credentials(header) == ("", "")


def test_the_relays_key_does_not_tell_the_token():
    assert relay_key("orbit_a") != relay_key("orbit_b")
    assert "orbit_a" not in relay_key("orbit_a")


def test_no_way_is_open_is_a_lost_connection():
    assert issubclass(NoRoute, ConnectionLost)
    assert NoRoute("x").status_code == 503
