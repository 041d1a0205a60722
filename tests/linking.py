"""Join two links by a network in memory, which a test may cut."""

import asyncio

import anyio

from orbit_core._carrier import SocketClosed
from orbit_core._frames import RequestHead
from orbit_core._link import Link
from tests.waiting import until


class Wire:
    """Be a socket in memory; what is not yet delivered when it is cut is lost.

    While ``is_held``, what comes to it waits on its way.
    """

    def __init__(self, size=100, is_held=False):
        self.size = size
        self.is_held = is_held
        self.waiting = []
        self.loop = asyncio.get_running_loop()
        self.closed = anyio.Event()
        self.is_closed = False
        self.peer = self.receive = self.resume = None

    @property
    def is_busy(self):
        return len(self.peer.waiting) >= self.size

    @property
    def unsent(self):
        return len(self.peer.waiting)

    def listen(self, receive, resume):
        self.receive, self.resume = receive, resume
        self.loop.call_soon(self.flow)

    def write(self, message):
        if self.is_closed:
            raise SocketClosed
        self.peer.waiting.append(bytes(message))
        self.loop.call_soon(self.peer.flow)

    def flow(self):
        if self.receive is not None and not self.is_held:
            self.deliver(len(self.waiting))

    def deliver(self, count):
        while count and self.waiting and not self.is_closed:
            count -= 1
            was_busy = self.peer.is_busy
            self.receive(self.waiting.pop(0))
            if was_busy and not self.peer.is_busy and self.peer.resume is not None:
                self.peer.resume()

    async def wait_closed(self):
        await self.closed.wait()

    def abort(self):
        for wire in (self, self.peer):
            wire.is_closed = True
            wire.closed.set()


def wires(size=100, is_held=False):
    one, two = Wire(size, is_held), Wire(size, is_held)
    one.peer, two.peer = two, one
    return one, two


class Pair:
    """Be an endpoint's and a bridge's link, and the network between them."""

    def __init__(self, group, app):
        self.group = group
        self.heard = []
        self.running = 0
        self.endpoint = Link(app, group, self.hear, first_id=1)
        self.bridge = Link(app, group, self.hear, first_id=2)

    def hear(self, kind, payload):
        self.heard.append((kind, bytes(payload)))

    def connect(self, size=100, is_held=False):
        near, far = self.wires = wires(size, is_held)
        counts = self.endpoint.received, self.bridge.received
        self.group.start_soon(self.carry, self.endpoint, near, counts[1])
        self.group.start_soon(self.carry, self.bridge, far, counts[0])
        self.running += 2

    async def carry(self, link, wire, count):
        try:
            await link.run(wire, count)
        finally:
            self.running -= 1

    async def reconnect(self, size=100):
        """Cut the network, and dial anew when both sides know."""
        self.endpoint.cut()
        self.bridge.cut()
        await until(lambda: not self.running)
        self.connect(size)
        await until(lambda: self.endpoint.is_attached and self.bridge.is_attached)


async def echo(scope, receive, send):
    """Answer with the body, as it comes."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    more = True
    while more:
        message = await receive()
        more = message["more_body"]
        await send({"type": "http.response.body", "body": message["body"], "more_body": more})


async def whole(stream):
    await stream.response()
    body = b""
    while chunk := await stream.read():
        body += chunk
    return body


def head(target=b"/x?y", meta=None):
    return RequestHead("POST", target, [(b"x-one", b"1")], meta or {})
