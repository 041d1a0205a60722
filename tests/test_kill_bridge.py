from collections import Counter
from contextlib import AsyncExitStack
from importlib.metadata import EntryPoint

import anyio
import pytest

from orbit_core.config import EndpointConfig
from orbit_core.endpoint import open_endpoint
from orbit_core.models import HostInfo, HostRole
from tests.probe_plugin import PROBE
from tests.processes import open_site
from tests.waiting import until

pytestmark = pytest.mark.anyio

PATIENCE = 15.0
"""Seconds after the bridge's return in which everybody is back."""

HOSTS = [f"host{number}" for number in range(3)]
GUESTS = [f"guest{number}" for number in range(20)]
EVERYBODY = {*HOSTS, *GUESTS}
LANES, JOBS = 9, 45
PLUGINS = {"probe": EntryPoint("probe", PROBE, "orbit.plugins")}


@pytest.fixture
async def site(tmp_path):
    """Run a bridge, endpoints in processes of their own, and more of them in this one."""
    async with open_site(tmp_path) as found, AsyncExitStack() as stack:
        async with anyio.create_task_group() as group:
            for name in HOSTS:
                group.start_soon(found.start_endpoint, name, "probe,psij")
        for name in GUESTS:
            config = EndpointConfig(
                name=name, url=found.url, plugins=["probe"], state_dir=tmp_path / name
            )
            host = HostInfo(HostRole.STANDALONE)
            await stack.enter_async_context(
                open_endpoint(config, host, token=found.token, available=PLUGINS)
            )
        yield found


class Clients:
    """Use the SDK all the time, whatever happens to the bridge: listen, call, submit."""

    def __init__(self, bridge, log):
        self.present = set()
        self.news = []
        self.answered = Counter()
        self.submitted = {}
        self._bridge = bridge
        self._log = log
        bridge.register_topology_callback(self.hear_topology)
        bridge.register_callback(None, "probe", "news", self.hear_news)

    def hear_topology(self, endpoints):
        self.present = {
            name for name, found in endpoints.items() if found["endpoint"]["liveness"] == "present"
        }

    def hear_news(self, endpoint, plugin, topic, data):
        self.news.append((endpoint, data))

    async def call(self, name):
        """Call an endpoint over and over."""
        while True:
            await self._bridge.request("GET", f"/{name}/probe/echo")
            self.answered[name] += 1
            await anyio.sleep(0.1)  # leave the processor to others

    async def submit(self, psij, numbers):
        """Submit one job after the other."""
        for number in numbers:
            script = f"echo {number} >>{self._log}"
            job = await psij.submit_job({"executable": "/bin/sh", "arguments": ["-c", script]})
            self.submitted[number] = psij, job["job_id"]

    async def until_everybody_is_back(self):
        """Wait until every endpoint is seen, answers, and is heard."""
        before = self.answered.copy()
        with anyio.fail_after(PATIENCE):
            await until(lambda: self.present == EVERYBODY, PATIENCE)
            await until(
                lambda: all(self.answered[name] > before[name] for name in EVERYBODY), PATIENCE
            )
        for number, name in enumerate(sorted(EVERYBODY)):
            await self._bridge.request("POST", f"/{name}/probe/notify", {"data": number})
        await until(lambda: len(self.news) >= len(EVERYBODY), 30)


async def test_everybody_is_back_after_a_kill_of_the_bridge_and_every_job_ran_once(site, tmp_path):
    log = tmp_path / "log"
    with anyio.fail_after(90):
        async with site.client() as bridge, anyio.create_task_group() as group:
            clients = Clients(bridge, log)
            await until(lambda: clients.present == EVERYBODY, 20)
            psij = [await bridge.get_endpoint_client(name).get_plugin("psij") for name in HOSTS]
            for name in EVERYBODY:
                group.start_soon(clients.call, name)
            async with anyio.create_task_group() as submitting:
                for lane in range(LANES):
                    numbers = range(lane, JOBS, LANES)
                    submitting.start_soon(clients.submit, psij[lane % len(HOSTS)], numbers)
                await until(lambda: len(clients.submitted) > JOBS // 3, 30)

                await site.kill("bridge")
                clients.present.clear()
                assert len(clients.submitted) < JOBS
                await site.start_bridge()
                await clients.until_everybody_is_back()

            ends = [await plugin.wait_job(job_id) for plugin, job_id in clients.submitted.values()]
            listed = [job["job_id"] for plugin in psij for job in await plugin.list_jobs()]
            group.cancel_scope.cancel()

    assert clients.news == [(name, number) for number, name in enumerate(sorted(EVERYBODY))]
    assert [end["state"] for end in ends] == ["COMPLETED"] * JOBS
    assert sorted(listed) == sorted(job_id for _, job_id in clients.submitted.values())
    assert sorted(map(int, log.read_text().split())) == list(range(JOBS))
