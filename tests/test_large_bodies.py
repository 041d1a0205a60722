import zlib
from contextlib import asynccontextmanager

import anyio
import pytest

from tests.probe_plugin import PART
from tests.processes import open_site

pytestmark = pytest.mark.anyio

GIB = 1024**3
PARTS = GIB // len(PART)
MOST_GROWTH = 64 * 1024**2
CALLS, LANES = 500, 4
SERVERS = ("bridge", "node")


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path) as found:
        await found.start_endpoint("node", "probe")
        yield found


class Bystanders:
    """Be another client, which makes call after call while a body passes by."""

    def __init__(self, site):
        self.answers = []
        self._site = site
        self._answered = anyio.Event()

    async def call(self, lane):
        """Make calls without end."""
        async with self._site.http() as http:
            while True:
                reply = await http.get(f"/node/probe/item/{lane}")
                self.answers.append((reply.status_code, reply.json()))
                self._answered.set()
                self._answered = anyio.Event()
                await anyio.sleep(0.02)  # leave the processor to the body

    async def keep_up(self, size):
        """Wait until they made their share of the calls, ``size`` bytes having passed by."""
        while len(self.answers) < CALLS * size // GIB:
            await self._answered.wait()


@asynccontextmanager
async def bystanders(site):
    """Have others call while the context is open, then look at their answers and the memory."""
    before = {name: site.memory(name) for name in SERVERS}
    others = Bystanders(site)
    with anyio.fail_after(180):
        async with anyio.create_task_group() as group:
            for lane in range(LANES):
                group.start_soon(others.call, lane)
            yield others
            group.cancel_scope.cancel()
    assert len(others.answers) >= CALLS
    assert {(status, answer["item"]) for status, answer in others.answers} == {
        (200, str(lane)) for lane in range(LANES)
    }
    grown = {name: site.peak_memory(name) - before[name] for name in SERVERS}
    assert all(more <= MOST_GROWTH for more in grown.values()), grown


async def test_a_gibibyte_goes_up_whole_in_little_memory_and_holds_up_nobody(site):
    checksum = 0

    async def numbered_parts():
        nonlocal checksum
        for number in range(PARTS):
            part = number.to_bytes(8) + PART[8:]
            checksum = zlib.crc32(part, checksum)
            yield part
            await others.keep_up((number + 1) * len(PART))

    async with bystanders(site) as others, site.http() as http:
        reply = await http.post("/node/probe/sum", content=numbered_parts())

    assert reply.json() == {"size": GIB, "checksum": checksum}


async def test_a_gibibyte_comes_down_whole_in_little_memory_and_holds_up_nobody(site):
    size = checksum = expected = 0

    async with (
        bystanders(site) as others,
        site.http() as http,
        http.stream("GET", "/node/probe/source", params={"parts": PARTS}) as reply,
    ):
        async for chunk in reply.aiter_raw():
            size += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
            await others.keep_up(size)

    for _ in range(PARTS):
        expected = zlib.crc32(PART, expected)
    assert (reply.status_code, size, checksum) == (200, GIB, expected)
