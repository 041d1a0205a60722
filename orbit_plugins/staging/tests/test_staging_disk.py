from collections.abc import AsyncIterator

import anyio
import pytest
from orbit_staging import DiskFull
from orbit_staging.digests import BLOCK
from orbit_staging.disk import pour

from orbit_core.errors import ConnectionLost

pytestmark = pytest.mark.anyio

PART = bytes(BLOCK // 4)


class Written:
    """Write to memory; every write waits for ``leave``, and the one of number ``fails`` fails."""

    def __init__(self, fails: int = -1) -> None:
        self.leave = anyio.Event()
        self.begun = anyio.Event()
        self.sizes: list[int] = []
        self._fails = fails

    async def __call__(self, parts: list[bytes]) -> None:
        self.begun.set()
        await self.leave.wait()
        if len(self.sizes) == self._fails:
            raise DiskFull("no room")
        self.sizes.append(sum(map(len, parts)))


async def some(count: int, error: Exception | None = None) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield PART
    if error is not None:
        raise error


async def test_all_of_a_stream_is_written_in_blocks_and_a_rest() -> None:
    written = Written()
    written.leave.set()
    await pour(some(11), written)
    assert sum(written.sizes) == 11 * len(PART)
    assert all(BLOCK <= size <= 2 * BLOCK for size in written.sizes[:-1])


async def test_what_came_before_a_stream_broke_is_written() -> None:
    written = Written()
    written.leave.set()
    with pytest.raises(ConnectionLost, match="cut"):
        await pour(some(3, ConnectionLost("cut")), written)
    assert written.sizes == [3 * len(PART)]


async def test_what_came_before_a_cancellation_is_written() -> None:
    written, came = Written(), anyio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield PART
        came.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(pour, endless(), written)
        await came.wait()
        await written.begun.wait()
        group.cancel_scope.cancel()
        written.leave.set()
    assert sum(written.sizes) == 5 * len(PART)


async def test_a_write_that_fails_ends_the_reading() -> None:
    written = Written(fails=1)
    written.leave.set()
    with pytest.raises(DiskFull, match="no room"), anyio.fail_after(10):
        await pour(some(10**9), written)
    assert len(written.sizes) == 1


async def test_a_stream_waits_for_writes_that_are_two_blocks_behind() -> None:
    written, taken = Written(), 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal taken
        async for part in some(40):
            taken += 1
            yield part

    async with anyio.create_task_group() as group:
        group.start_soon(pour, counted(), written)
        await written.begun.wait()
        await anyio.wait_all_tasks_blocked()
        assert taken * len(PART) <= 4 * BLOCK
        written.leave.set()
    assert sum(written.sizes) == 40 * len(PART)
