"""Join two links inside a process: the bridge's own plugins call it as those of endpoints do."""

import asyncio
from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

from ._link import Link


class Pipe:
    """Be one end of a socket in memory, which is never busy."""

    is_busy = False
    unsent = 0
    _receive: Callable[[bytes], None]

    def __init__(self) -> None:
        """Have no other end yet; `connect` makes both."""
        self.peer = self
        self._loop = asyncio.get_running_loop()
        self._closed = anyio.Event()

    def listen(self, receive: Callable[[bytes], None], resume: Callable[[], None]) -> None:
        """Hand messages over as they come."""
        self._receive = receive

    def write(self, message: bytes) -> None:
        """Send one message."""
        self._loop.call_soon(self.peer._hand_over, message)

    def _hand_over(self, message: bytes) -> None:
        self._receive(message)

    async def wait_closed(self) -> None:
        """Wait until either end is cut."""
        await self._closed.wait()

    def abort(self) -> None:
        """Cut both ends."""
        self._closed.set()
        self.peer._closed.set()


def connect(one: Link, other: Link, group: TaskGroup) -> None:
    """Carry two new links to each other; both listen before what either writes arrives."""
    here, there = Pipe(), Pipe()
    here.peer, there.peer = there, here
    group.start_soon(one.run, here, 0)
    group.start_soon(other.run, there, 0)
