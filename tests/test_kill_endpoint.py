import re
from collections import Counter
from contextlib import aclosing

import anyio
import httpx
import psutil
import pytest

from orbit_core.errors import EndpointLost
from tests.processes import open_site
from tests.waiting import until

pytestmark = pytest.mark.anyio

PATIENCE = 15.0
"""Seconds after the death of its endpoint in which every caller has been told."""

HANGING, CALLING, STREAMING = 20, 10, 4
LASTING = HANGING + STREAMING + 2
JOBS = 24
CHUNK = bytes(64 * 1024)


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path) as found:
        await found.start_endpoint("node", "probe,notes,psij")
        yield found


def fault(reply):
    document = reply.json()
    assert document["error"] is True
    assert document["status_code"] == reply.status_code
    return reply.status_code, document["code"], document["detail"]


class Callers:
    """Be the clients of one endpoint; each notes how its call ended."""

    def __init__(self, site):
        self.site = site
        self.faults = []
        self.told = []
        self.cut = []
        self.answered = Counter()
        self.received = Counter()
        self.poured = 0
        self.is_killed = False
        self.is_registered = anyio.Event()

    async def hang(self):
        """Make a call that is not answered."""
        async with self.site.http() as http:
            self.faults.append(fault(await http.get("/node/probe/hang")))

    async def hang_in_client(self):
        """Make one with the client of the SDK."""
        async with self.site.client() as bridge:
            probe = await bridge.get_endpoint_client("node").get_plugin("probe")
            self.is_registered.set()
            with pytest.raises(EndpointLost) as caught:
                await probe.get("hang")
            self.told.append(caught.value.status_code)

    async def call(self, number):
        """Make short calls until one fails."""
        async with self.site.http() as http:
            while (reply := await http.get("/node/probe/echo")).status_code == 200:
                self.answered[number] += 1
            self.faults.append(fault(reply))

    async def upload(self):
        """Send a body that is not over when the endpoint dies."""

        async def body():
            while not self.is_killed:
                yield CHUNK
                self.poured += len(CHUNK)

        async with self.site.http() as http:
            self.faults.append(fault(await http.post("/node/probe/sink", content=body())))

    async def download(self, number, route):
        """Read a response that is not over when the endpoint dies."""
        async with self.site.http() as http, http.stream("GET", f"/node/probe/{route}") as reply:
            assert reply.status_code == 200
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)) as caught:
                await self.count(reply, number)
            self.cut.append(caught.type)

    async def count(self, reply, number):
        async for part in reply.aiter_raw():
            self.received[number] += len(part)


IN_FLIGHT = re.compile(r"^orbit_calls_in_flight (\S+)$", re.MULTILINE)


async def until_in_flight(http, count):
    """Wait until the bridge is relaying so many calls."""

    async def are_in_flight():
        return float(IN_FLIGHT.search((await http.get("/metrics")).text)[1]) == count

    await until(are_in_flight, 20)


async def start_callers(group, callers, http):
    """Start every kind of caller, and wait until each is in the middle of what it does."""
    for _ in range(HANGING):
        group.start_soon(callers.hang)
    group.start_soon(callers.hang_in_client)
    group.start_soon(callers.upload)
    for number in range(STREAMING):
        route = "trickle" if number % 2 else "source?parts=1000000"
        group.start_soon(callers.download, number, route)
    await callers.is_registered.wait()  # which is a call, too
    await until_in_flight(http, LASTING)
    await until(lambda: callers.poured > 2**22 and len(callers.received) == STREAMING)
    for number in range(CALLING):
        group.start_soon(callers.call, number)
    await until(lambda: sum(count > 2 for count in callers.answered.values()) == CALLING)


@pytest.mark.parametrize(
    ("returns", "detail"),
    [
        (False, "endpoint node is lost: its link broke and it did not return"),
        (True, "endpoint node was restarted during the call"),
    ],
    ids=["it stays away", "it comes back at once"],
)
async def test_every_caller_of_a_killed_endpoint_is_told(site, returns, detail):
    callers = Callers(site)
    with anyio.fail_after(60) as limit:
        async with site.http() as http, anyio.create_task_group() as group:
            await start_callers(group, callers, http)
            await site.kill("node")
            limit.deadline = anyio.current_time() + PATIENCE
            callers.is_killed = True
            group.start_soon(callers.call, "late")
            await until_in_flight(http, LASTING + CALLING + 1)
            if returns:
                await site.start_endpoint("node", "probe")
    async with site.http() as http:
        after = await http.get("/node/probe/echo")
        await until_in_flight(http, 0)

    expected = Counter({(504, "endpoint_lost", detail): HANGING + CALLING + 2})
    assert Counter(callers.faults) == expected
    assert callers.told == [504]
    assert len(callers.cut) == STREAMING
    if returns:
        assert after.status_code == 200
    else:
        assert fault(after)[:2] == (404, "unknown_endpoint")


def shell(script):
    return {"executable": "/bin/sh", "arguments": ["-c", script]}


def has_ended(pid):
    """Tell whether a process is no more, reaped or not by whoever inherited it."""
    try:
        return psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_killed_endpoint_serves_its_sessions_and_jobs_when_it_is_back(site, tmp_path):
    log, gates = tmp_path / "log", [tmp_path / "first", tmp_path / "second"]
    wait = [f"until [ -e {gate} ]; do sleep 0.02; done" for gate in gates]
    scripts = [
        f"echo early | tee -a {log}",
        f"echo on; {wait[0]}; echo meanwhile | tee -a {log}",
        f"echo on; {wait[1]}; echo later | tee -a {log}; exit 3",
    ]
    with anyio.fail_after(60):
        async with site.client() as bridge:
            node = bridge.get_endpoint_client("node")
            notes = await node.get_plugin("notes", title="kept")
            psij = await node.get_plugin("psij")
            jobs = [await psij.submit_job(shell(script)) for script in scripts]
            await psij.wait_job(jobs[0]["job_id"])
            for job in jobs[1:]:
                await first_output(psij, job["job_id"])

            await site.kill("node")
            gates[0].touch()
            await until(lambda: has_ended(jobs[1]["native_id"]))
            await site.start_endpoint("node", "probe,notes,psij")

            assert await notes.get(f"notes/{notes.sid}") == {"title": "kept", "notes": []}
            found = [await psij.get_job_status(job["job_id"]) for job in jobs]
            assert [(job["native_id"], job["stdout"]) for job in found] == [
                (jobs[0]["native_id"], "early\n"),
                (jobs[1]["native_id"], "on\nmeanwhile\n"),
                (jobs[2]["native_id"], "on\n"),
            ]
            gates[1].touch()
            ends = [await psij.wait_job(job["job_id"]) for job in jobs]

    assert [(end["state"], end["exit_code"], end["stdout"]) for end in ends] == [
        ("COMPLETED", 0, "early\n"),
        ("COMPLETED", 0, "on\nmeanwhile\n"),
        ("FAILED", 3, "on\nlater\n"),
    ]
    assert log.read_text() == "early\nmeanwhile\nlater\n"


async def first_output(psij, job_id):
    async with aclosing(psij.follow_output(job_id)) as parts:
        async for _ in parts:
            return


async def test_submissions_cut_by_a_kill_are_repeated_and_run_once(site, tmp_path):
    """A caller that is told of the loss repeats its request with its key, and has one job."""
    log, submitted, cut = tmp_path / "log", {}, []
    halfway, is_back = anyio.Event(), anyio.Event()
    few = anyio.CapacityLimiter(JOBS // 3)  # so that some are under way and others to come

    async def submit(psij, number):
        script = shell(f"echo {number} >>{log}")
        while number not in submitted:
            try:
                async with few:
                    key = f"key{number}"
                    submitted[number] = await psij.submit_job(script, idempotency_key=key)
            except EndpointLost:
                cut.append(number)
                await is_back.wait()
            if len(submitted) == JOBS // 3:
                halfway.set()

    with anyio.fail_after(90):
        async with site.client() as bridge:
            psij = await bridge.get_endpoint_client("node").get_plugin("psij")
            async with anyio.create_task_group() as group:
                for number in range(JOBS):
                    group.start_soon(submit, psij, number)
                await halfway.wait()
                await site.kill("node")
                await site.start_endpoint("node", "psij")
                is_back.set()
            ends = [await psij.wait_job(submitted[number]["job_id"]) for number in range(JOBS)]
            listed = await psij.list_jobs()

    assert cut
    assert [end["state"] for end in ends] == ["COMPLETED"] * JOBS
    assert sorted(map(int, log.read_text().split())) == list(range(JOBS))
    assert len(listed) == JOBS
