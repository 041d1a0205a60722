from contextlib import asynccontextmanager

import anyio
import pytest
from websockets.asyncio.server import serve

from orbit_core._dial import Credentials, dial
from orbit_core.config import Access
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]


@asynccontextmanager
async def dialed(say):
    """Dial a bridge that does no more than to ``say`` something, and yield the socket."""

    async def bridge(connection):
        await say(connection)
        await connection.wait_closed()

    with anyio.fail_after(20):
        async with serve(bridge, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            access = Access(f"http://127.0.0.1:{port}")
            async with dial(access, Credentials("node", "p1", None, 0)) as (socket, _):
                yield socket


async def test_messages_arrive_whole_however_they_are_cut():
    heard = []

    async def say(connection):
        await connection.send([b"in ", b"three ", b"parts"])
        await connection.send(b"in one")

    async with dialed(say) as socket:
        socket.listen(heard.append, lambda: None)
        await until(lambda: len(heard) == 2)
    assert heard == [b"in three parts", b"in one"]


async def test_what_comes_before_anybody_listens_is_kept():
    heard = []

    async def say(connection):
        await connection.send(b"early")

    async with dialed(say) as socket:
        await until(lambda: socket._early)
        socket.listen(heard.append, lambda: None)
    assert heard == [b"early"]


async def test_text_which_no_bridge_sends_cuts_the_connection():
    heard = []

    async def say(connection):
        await connection.send("text")

    async with dialed(say) as socket:
        socket.listen(heard.append, lambda: None)
        await socket.wait_closed()
    assert (heard, socket.close_code) == ([], 1006)
