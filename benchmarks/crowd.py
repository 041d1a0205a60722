"""Join a bridge as many idle endpoints, one after the other; print how long each one took."""

import resource
import sys
import time

import anyio
from sites import TOKEN

from orbit_core._codec import to_data
from orbit_core._dial import Credentials, dial
from orbit_core._frames import Kind, pack_value
from orbit_core._hello import Hello
from orbit_core._link import Link
from orbit_core.config import Access


async def idle(scope: object, receive: object, send: object) -> None:
    """Serve nothing."""


async def join(access: Access, number: int, joined: anyio.Event) -> None:
    """Be one endpoint."""

    def hear(kind: Kind, payload: memoryview) -> None:
        if kind is Kind.WELCOME:
            joined.set()

    async with anyio.create_task_group() as group:
        link = Link(idle, group, hear, first_id=1)
        link.send(Kind.HELLO, 0, pack_value(to_data(Hello())))
        credentials = Credentials(f"node-{number}", f"process-{number}", None, 0)
        async with dial(access, credentials) as (dialed, _):
            await link.run(dialed, 0)


async def main(url: str, count: int) -> None:
    """Join one after the other, and stay."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    async with anyio.create_task_group() as group:
        for number in range(count):
            joined = anyio.Event()
            start = time.monotonic()
            group.start_soon(join, Access(url, TOKEN, None), number, joined)
            await joined.wait()
            print(time.monotonic() - start, flush=True)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]), backend_options={"use_uvloop": True})
