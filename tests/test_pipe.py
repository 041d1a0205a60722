import anyio
import pytest

from orbit_core._frames import CHUNK
from orbit_core._link import Link
from orbit_core._pipe import connect
from tests.test_link import echo, head, whole
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def test_two_links_of_a_process_carry_calls_until_either_is_cut():
    async with anyio.create_task_group() as group:
        one, other = (
            Link(echo, group, lambda kind, payload: None, first_id=number) for number in (1, 2)
        )
        before = one.call(head(), b"early", fin=True)
        connect(one, other, group)
        with anyio.fail_after(10):
            assert await whole(before) == b"early"
            for link in (one, other):
                stream = link.call(head(), b"", fin=False)
                group.start_soon(lambda stream=stream: stream.write(bytes(50 * CHUNK), fin=True))
                assert len(await whole(stream)) == 50 * CHUNK
            other.cut()
            await until(lambda: not one.is_attached)
