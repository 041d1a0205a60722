import os
import random
import sys
from itertools import pairwise
from pathlib import Path

import anyio
import psutil
import pytest

from tests.processes import open_site
from tests.waiting import until

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
GROWTH = 64 * MIB
"""Bytes by which a process may grow while it moves a file of any size."""


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path) as found:
        await found.start_endpoint("node", "staging")
        yield found


async def open_staging(bridge, endpoint="node"):
    session = {"sid": "lab", "lifetime": "persistent"}
    return await bridge.get_endpoint_client(endpoint).get_plugin("staging", **session)


def write_random(path, size):
    """Write a file of blocks that differ, cheaply."""
    block = os.urandom(MIB)
    with path.open("wb") as file:
        for number in range(size // MIB):
            file.write(number.to_bytes(8, "big") + block[8:])


async def test_an_upload_goes_on_where_a_killed_endpoint_had_it(site, tmp_path):
    source, back, news = tmp_path / "source", tmp_path / "back", []
    await anyio.to_thread.run_sync(write_random, source, 64 * MIB)
    cut = random.randrange(8 * MIB, 48 * MIB)
    is_half = anyio.Event()

    def see(done, total):
        news.append(done)
        if done >= cut:
            is_half.set()

    async with site.client() as bridge:
        staging = await open_staging(bridge)
        with anyio.fail_after(120):
            async with anyio.create_task_group() as group:
                group.start_soon(staging.put, source, "x", False, see)
                await is_half.wait()
                await site.kill("node")
                await site.start_endpoint("node", "staging")
            await staging.get("x", back)
    resumed = next(now for before, now in pairwise(news) if now < before)
    assert 0 < resumed < 64 * MIB
    assert back.read_bytes() == source.read_bytes()


async def test_a_gibibyte_goes_there_and_back_in_little_memory(site, tmp_path):
    source, back = tmp_path / "source", tmp_path / "back"
    await anyio.to_thread.run_sync(write_random, source, 1024 * MIB)
    own = psutil.Process()
    async with site.client() as bridge:
        staging = await open_staging(bridge)
        before = {name: site.memory(name) for name in ("bridge", "node")}
        client = own.memory_info().rss
        stored = await staging.put(source, "x")
        found = await staging.get("x", back)
        grown = {name: site.memory(name) - before[name] for name in before}
        grown["client"] = own.memory_info().rss - client
    assert stored["sha256"] == found["sha256"]
    assert back.stat().st_size == 1024 * MIB
    assert {name: size for name, size in grown.items() if size > GROWTH} == {}


@pytest.mark.parametrize("killed", ["node", "other"])
async def test_a_copy_goes_on_after_either_endpoint_was_killed(site, tmp_path, killed):
    source, news, is_half = tmp_path / "source", [], anyio.Event()
    await anyio.to_thread.run_sync(write_random, source, 128 * MIB)
    await site.start_endpoint("other", "staging")
    cut = random.randrange(MIB, 64 * MIB)

    def see(done, total):
        news.append(done)
        if done >= cut:
            is_half.set()

    async with site.client() as bridge:
        staging, other = await open_staging(bridge), await open_staging(bridge, "other")
        await staging.put(source, "x")
        with anyio.fail_after(120):
            async with anyio.create_task_group() as group:
                group.start_soon(staging.copy, "x", other, "y", False, see)
                await is_half.wait()
                before = len(news)
                await site.kill(killed)
                await site.start_endpoint(killed, "staging")
            path = (await other.stat("y"))["path"]
    assert min(news[before:]) >= cut
    assert Path(path).read_bytes() == source.read_bytes()


async def kill_halfway(site, command, folder, pattern, size):
    """Run a command, and kill it as soon as a file in ``folder`` has so many bytes."""
    environment = {**os.environ, "ORBIT_URL": site.url, "ORBIT_TOKEN": site.token}
    orbit = str(Path(sys.executable).with_name("orbit"))
    process = await anyio.open_process([orbit, *command], env=environment)
    await until(lambda: any(path.stat().st_size >= size for path in folder.glob(pattern)), 60)
    process.kill()
    await process.aclose()


async def test_a_transfer_goes_on_after_its_client_was_killed(site, tmp_path):
    source, back, up, down = tmp_path / "source", tmp_path / "back", [], []
    await anyio.to_thread.run_sync(write_random, source, 128 * MIB)
    cut = random.randrange(MIB, 48 * MIB)
    command = ["cp", "--session", "lab"]
    await kill_halfway(site, [*command, source, "node:x"], tmp_path, "**/uploads/*", cut)
    async with site.client() as bridge:
        staging = await open_staging(bridge)
        await staging.put(source, "x", progress=lambda done, total: up.append(done))
        await kill_halfway(site, [*command, "node:x", back], tmp_path, ".*.orbit-part", cut)
        await staging.get("x", back, progress=lambda done, total: down.append(done))
    assert up[0] >= cut
    assert down[0] >= cut
    assert back.read_bytes() == source.read_bytes()


async def test_a_copy_takes_little_memory(site, tmp_path):
    source = tmp_path / "source"
    await anyio.to_thread.run_sync(write_random, source, 256 * MIB)
    await site.start_endpoint("other", "staging")
    async with site.client() as bridge:
        staging, other = await open_staging(bridge), await open_staging(bridge, "other")
        await staging.put(source, "x")
        before = {name: site.memory(name) for name in ("bridge", "node", "other")}
        copied = await staging.copy("x", other)
        grown = {name: site.peak_memory(name) - before[name] for name in before}
    assert copied["size"] == 256 * MIB
    assert {name: size for name, size in grown.items() if size > GROWTH} == {}
