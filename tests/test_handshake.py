import asyncio
import socket

import anyio
import pytest

from orbit_core._handshake import unsent_bytes

pytestmark = pytest.mark.anyio


async def test_what_waits_for_a_peer_is_counted_also_where_the_kernel_holds_it():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader = socket.create_connection(listener.getsockname())
        writer, _ = listener.accept()
    with reader:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=writer)
        transport.write(b"")
        assert unsent_bytes(transport) == 0
        transport.write(bytes(50_000_000))
        assert unsent_bytes(transport) > transport.get_write_buffer_size() > 0
        reader.setblocking(False)
        with anyio.fail_after(20):
            while unsent_bytes(transport):
                await loop.sock_recv(reader, 2**20)
        transport.abort()
