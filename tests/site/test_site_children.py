"""Child endpoints on a site whose network lets one thing pass, or nothing at all."""

import json
from contextlib import suppress
from pathlib import Path

import anyio
import psutil
import pytest
from orbit_psij import JobRefused

from orbit_core.errors import NameInUse

from .daemons import wait_until
from .network import LOGIN, SSH_PORT
from .outpost import open_outpost
from .user import NAME, PATIENCE, open_user

pytestmark = [pytest.mark.site, pytest.mark.anyio]

WAYS = {
    "open": ("outwards", "none", "direct"),
    "proxy": ("proxy", "proxy", "proxy"),
    "tcp": ("tcp-to-login", "relay", "relay"),
    "ssh-out": ("ssh-to-login", "forward", "forward"),
    "ssh-in": ("ssh-to-compute", "reverse", "reverse"),
}
"""What passes, which mode is right for that, and which way the child takes then."""

PASSAGES = ("proxy", "tcp-to-login", "ssh-to-login", "ssh-to-compute")
"""Everything but a direct way outwards."""


@pytest.fixture
async def outpost(network, walled_cluster, tmp_path):
    async with open_outpost(tmp_path, network, walled_cluster) as found:
        yield found


@pytest.fixture
async def user(outpost):
    async with open_user(outpost) as found:
        yield found


@pytest.mark.parametrize("is_auto", [False, True], ids=["told", "auto"])
@pytest.mark.parametrize("situation", WAYS)
async def test_a_child_is_reached_whatever_the_network_lets_pass(
    user, network, walled_cluster, situation, is_auto
):
    passage, mode, way = WAYS[situation]
    network.allow(walled_cluster.ports, passage)

    made = await user.spawn("auto" if is_auto else mode, plugins="rhapsody,sysinfo")
    assert made["endpoint_name"] == NAME
    found = await user.until_active()

    assert (found["status"], found["way"]) == ("active", way), found
    assert (await user.answers())["version"]
    await assert_tasks_run_in_the_job(user, made)

    await user.client.stop_child("gpu")
    user.outpost.wait_until_clear()
    assert (await user.client.tunnel_status(NAME))["status"] == "done"


async def assert_tasks_run_in_the_job(user, made):
    program, function = await user.run_tasks()
    place = user.outpost.network.namespace("compute")
    assert (program["state"], function["state"]) == ("DONE", "DONE"), (program, function)
    assert program["stdout"] == f"task done {made['native_id']}\n{place}\n"
    assert function["return_value"] == place


@pytest.mark.parametrize(("passage", "mode"), [("tcp-to-login", "relay"),
                                               ("ssh-to-login", "forward")])  # fmt: skip
async def test_a_child_runs_in_a_job_of_pbs(network, walled_cluster, tmp_path, passage, mode):
    network.allow(walled_cluster.ports, passage)
    async with (
        open_outpost(tmp_path, network, walled_cluster, scheduler="pbs") as outpost,
        open_user(outpost) as user,
    ):
        made = await user.spawn(mode, plugins="rhapsody,sysinfo")
        found = await user.until_active()

        assert (found["status"], found["way"]) == ("active", mode), found
        assert made["native_id"].endswith(".pbs-lab")
        await assert_tasks_run_in_the_job(user, made)

        await user.client.stop_child("gpu")
        outpost.wait_until_clear()
        found = await user.client.tunnel_status(NAME)
        assert (found["status"], found["job_state"]) == ("done", "CANCELED")


async def test_a_wrong_mode_fails_within_a_minute_with_its_reason(user, network, walled_cluster):
    network.allow(walled_cluster.ports)
    words = {
        "none": "direct: cannot reach https://10.77.1.1:8443: timed out",
        "proxy": "proxy: cannot reach https://10.77.1.1:8443: timed out",
        "relay": "relay: no TCP connection from node",
        "forward": "forward: ssh to login: ssh: connect to host 10.77.2.1 port 2222: Connection",
        "reverse": "reverse: the parent opens no tunnel: ssh to node",
    }
    began = {}
    for mode in words:
        await user.spawn(mode, name=mode)
        await user.until(lambda found: found["stage"] in ("linking", "over"), f"login.{mode}")
        began[mode] = anyio.current_time()

    for mode, said in words.items():
        name = f"login.{mode}"
        found = await user.until(lambda found: found["status"] != "pending", name)
        assert anyio.current_time() - began[mode] < 60
        assert (found["status"], found["way"]) == ("failed", None)
        assert said in found["reason"]
        status = await user.client.wait_job(found["job_id"], PATIENCE)
        assert (status["state"], status["error"]) == ("FAILED", found["reason"])


@pytest.mark.parametrize(("passage", "mode"), [("ssh-to-login", "forward"),
                                               ("ssh-to-compute", "reverse")])  # fmt: skip
async def test_a_tunnel_that_is_killed_is_opened_again(
    user, network, walled_cluster, passage, mode
):
    network.allow(walled_cluster.ports, passage)
    await user.spawn(mode)
    before = await user.until_active()

    psutil.Process(before["pid"]).kill()

    after = await user.until(lambda found: found["pid"] not in (None, before["pid"]))
    assert after["job_id"] == before["job_id"]
    await user.until_answers()


@pytest.mark.parametrize("mode", ["forward", "relay", "reverse"])
@pytest.mark.parametrize("killed", ["login", "bridge"])
async def test_a_child_comes_back_when_its_parent_or_the_bridge_does(
    user, outpost, network, walled_cluster, mode, killed
):
    network.allow(walled_cluster.ports, *PASSAGES)
    await user.spawn(mode)
    before = await user.until_active()

    outpost.kill(killed)
    if killed == "bridge":
        outpost.start_bridge()
        await user.bridge.wait_for_endpoint("login", timeout=PATIENCE)
    else:
        wait_until(lambda: not outpost.tunnels("-R"), "ssh ends with the process that started it")
        await outpost.start_login()

    await user.until_answers()
    # The parent hears of it, and of its way, a little later.
    after = await user.until(lambda found: (found["status"], found["way"]) == ("active", mode))
    assert after["job_id"] == before["job_id"]


@pytest.mark.parametrize("mode", ["forward", "relay", "reverse"])
async def test_a_child_that_is_killed_leaves_nothing(user, outpost, network, walled_cluster, mode):
    network.allow(walled_cluster.ports, *PASSAGES)
    await user.spawn(mode)
    await user.until_active()

    for process in outpost.child_processes(NAME):
        process.kill()

    outpost.wait_until_clear()
    found = await user.client.tunnel_status(NAME)
    assert (found["status"], found["job_state"]) == ("done", "FAILED")
    async with outpost.client() as client:
        assert [token["endpoint"] for token in await client.list_tokens()] == [None, "login"]


@pytest.mark.parametrize("mode", ["forward", "relay", "reverse"])
async def test_everything_that_is_killed_at_once_leaves_nothing(
    user, outpost, network, walled_cluster, mode
):
    network.allow(walled_cluster.ports, *PASSAGES)
    await user.spawn(mode)
    pid = (await user.until_active())["pid"]
    assert (pid is None) == (mode == "relay")
    ssh = [] if pid is None else [psutil.Process(pid)]

    outpost.kill("login")
    outpost.kill("bridge")
    for process in [*outpost.child_processes(NAME), *ssh]:
        with suppress(psutil.NoSuchProcess):  # an ssh ends with who started it
            process.kill()
    outpost.start_bridge()
    await outpost.start_login()

    outpost.wait_until_clear()
    found = await user.client.tunnel_status(NAME)
    assert (found["status"], found["job_state"]) == ("done", "FAILED")
    async with outpost.client() as client:
        assert [token["endpoint"] for token in await client.list_tokens()] == [None, "login"]


async def test_what_a_child_left_while_its_parent_was_away_is_cleared_at_the_next_start(
    user, outpost, network, walled_cluster
):
    network.allow(walled_cluster.ports, *PASSAGES)
    await user.spawn("reverse")
    await user.until_active()

    outpost.kill("login")
    walled_cluster.run("scancel", "--user=root")
    wait_until(lambda: not walled_cluster.run("squeue", "--noheader"), "the job is gone")
    assert outpost.traces()
    await outpost.start_login()

    outpost.wait_until_clear()
    found = await user.client.tunnel_status(NAME)
    assert (found["status"], found["job_state"]) == ("done", "CANCELED")


async def test_no_token_is_seen_anywhere(user, outpost, network, walled_cluster):
    network.allow(walled_cluster.ports, *PASSAGES)
    for mode in ("relay", "forward", "reverse", "proxy"):
        await user.spawn(mode, "--log-level", "DEBUG", name=mode)
        await user.until_active(f"login.{mode}")
    secrets = [file.read_text().strip() for file in outpost.children.glob("*/token")]
    assert len(secrets) == 4
    secrets += [outpost.directory.joinpath(name).read_text().strip()
                for name in ("login.token", "bridge/admin.token")]  # fmt: skip

    seen = [walled_cluster.run("scontrol", "show", "job", "--details")]
    seen += [path.read_bytes().decode(errors="replace") for path in outpost.logs()]
    for path in [*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")]:
        with suppress(OSError):
            seen.append(path.read_bytes().decode(errors="replace"))

    assert any("login.relay" in text for text in seen)
    assert [secret for secret in secrets for text in seen if secret in text] == []


async def test_two_children_of_one_name_are_one_too_many(user, network, walled_cluster):
    network.allow(walled_cluster.ports, *PASSAGES)
    await user.spawn("relay")

    with pytest.raises(NameInUse, match=r"there is a child 'login\.gpu' already") as caught:
        await user.spawn("relay")

    assert caught.value.status_code == 409


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hostname": "node04"}, "the host node04 is none of the job's: node01"),
        ({"hostname": "-oProxyCommand=touch x"}, "is not a valid name"),
        ({"endpoint_name": "login.other"}, "the request is for 'login.other', not for 'login.gpu'"),
    ],
    ids=["other-host", "option", "other-child"],
)
async def test_a_forged_request_for_a_tunnel_is_refused(
    user, outpost, network, walled_cluster, changes, reason
):
    network.allow(walled_cluster.ports, *PASSAGES)
    await user.spawn("reverse", custom_attributes={"slurm.nodelist": "node01"})
    await user.until_active()
    (folder,) = [path for path in outpost.children.iterdir() if path.is_dir()]
    request = json.loads((folder / "request").read_text())
    for process in outpost.child_processes(NAME):
        process.suspend()  # or it would take the request away with its tunnel

    (folder / "request").write_text(json.dumps({**request, "id": "forged", **changes}))

    def answer():
        return json.loads((folder / "answer").read_text())

    wait_until(lambda: answer()["request"] == "forged", "the parent answers")
    assert answer()["port"] is None
    assert reason in answer()["reason"]
    assert not outpost.tunnels("-R", "node04")


async def test_a_child_is_spawned_and_stopped_from_a_shell(outpost, network, walled_cluster):
    network.allow(walled_cluster.ports, "tcp-to-login")

    spawned = await outpost.orbit(
        "spawn", "login", "--name", "gpu", "--queue", "batch", "--nodes", "2", "--time", "10m",
        "--plugins", "sysinfo", "--tunnel", "relay",
    )  # fmt: skip
    shown = walled_cluster.run("scontrol", "show", "job", "--oneliner")
    stopped = await outpost.orbit("stop", "gpu")

    assert spawned.stdout == b"login.gpu is ready, by the way relay\n"
    assert spawned.stderr.startswith(b"login.gpu: ")
    assert spawned.stderr.endswith(b" -> ready\n")
    for words in ("JobName=orbit-login.gpu", "NumNodes=2", "TimeLimit=00:10:00", "Partition=batch"):
        assert words in shown
    assert stopped.stdout == b"login.gpu is done\n"
    outpost.wait_until_clear()


async def test_a_job_that_the_scheduler_refuses_leaves_nothing(user, outpost):
    with pytest.raises(JobRefused, match="invalid partition"):
        await user.spawn("relay", attributes={"queue_name": "nonsense"})

    outpost.wait_until_clear()
    assert (await user.client.tunnel_status(NAME))["status"] == "no_tunnel"


async def test_a_host_whose_key_changed_is_not_trusted(user, outpost, network, walled_cluster):
    network.allow(walled_cluster.ports, "ssh-to-login")
    key = (network.directory / "id.pub").read_text().split()[:2]
    known = outpost.children / "known_hosts"
    known.write_text(f"[{LOGIN}]:{SSH_PORT} {' '.join(key)}\n")

    await user.spawn("forward")
    found = await user.until(lambda found: found["status"] != "pending")

    assert found["status"] == "failed"
    assert "Host key verification failed" in found["reason"]
    assert len(known.read_text().splitlines()) == 1
