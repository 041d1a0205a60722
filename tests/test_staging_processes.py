import os
import random
from itertools import pairwise

import anyio
import psutil
import pytest

from tests.processes import open_site

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
GROWTH = 64 * MIB
"""Bytes by which a process may grow while it moves a file of any size."""


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path) as found:
        await found.start_endpoint("node", "staging")
        yield found


async def open_staging(bridge):
    return await bridge.get_endpoint_client("node").get_plugin("staging", sid="lab")


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
