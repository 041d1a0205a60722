from contextlib import asynccontextmanager

import anyio
from anyio.from_thread import start_blocking_portal
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from orbit_core._frames import CHUNK, Kind
from orbit_core._stream import WINDOW
from orbit_core.errors import ConnectionLost, OrbitError
from tests.linking import Pair, echo, head, whole

SIZES = st.sampled_from([0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, WINDOW, WINDOW + 1, 2 * WINDOW])
TURNS = 20_000
"""Turns of the loop in which everything in memory must have come to rest."""

SIDES = st.sampled_from(["bridge", "endpoint"])


class Network(Pair):
    """Make calls over the links, each with a task that sends its body and reads the answer."""

    def __init__(self, group):
        super().__init__(group, echo)
        self.outcomes = {}

    def call(self, side, number, body):
        stream = getattr(self, side).call(head(), b"", fin=False)
        self.group.start_soon(self._exchange, number, stream, body)
        return stream

    async def _exchange(self, number, stream, body):
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._send, stream, body)
                self.outcomes[number] = await whole(stream)
        except* OrbitError as errors:
            self.outcomes[number] = errors.exceptions[0]

    async def _send(self, stream, body):
        await stream.write(body, fin=True)


async def come_to(condition):
    """Turn the loop until a condition holds: nothing here needs time, and a failure shows soon."""
    for _ in range(TURNS):
        if condition():
            return
        await anyio.lowlevel.checkpoint()
    raise AssertionError("the links came to rest too early")


@asynccontextmanager
async def open_network():
    async with anyio.create_task_group() as group:
        yield Network(group)
        group.cancel_scope.cancel()


class LinkMachine(RuleBasedStateMachine):
    """Compare two links with what a network that never breaks would do.

    Whatever is cut and joined again, every body and every notification arrives whole, once and in
    order; what is lost is lost to a cancelled call or to a restart alone.
    """

    calls = Bundle("calls")

    @initialize()
    def open(self):
        self.portal_context = start_blocking_portal()
        self.portal = self.portal_context.__enter__()
        self.opened = self.portal.wrap_async_context_manager(open_network())
        self.network = self.opened.__enter__()
        self.is_joined = False
        self.bodies, self.may_fail = {}, set()
        self.sent, self.sure = 0, []

    def teardown(self):
        if not self.is_joined:
            self.join(100)
        self.portal.call(self.settle)
        self.opened.__exit__(None, None, None)
        self.portal_context.__exit__(None, None, None)

    async def settle(self):
        links = self.network
        for wire in links.wires:
            wire.is_held = False
            wire.flow()
        await come_to(lambda: len(links.outcomes) == len(self.bodies))
        for number, body in self.bodies.items():
            outcome = links.outcomes[number]
            assert outcome == body or (number in self.may_fail and isinstance(outcome, OrbitError))
        wanted = list(range(len(self.sure), self.sent))
        await come_to(lambda: self.heard()[len(self.sure) :] == wanted)
        for link in (links.endpoint, links.bridge):
            await come_to(lambda link=link: not link.streams and not link.served)

    def heard(self):
        return [int(payload) for kind, payload in self.network.heard if kind is Kind.EVENT]

    @precondition(lambda self: not self.is_joined)
    @rule(size=st.integers(1, 5), is_held=st.booleans())
    def join(self, size, is_held=False):
        self.portal.call(self.connect, size, is_held)
        self.is_joined = True

    async def connect(self, size, is_held):
        self.network.connect(size, is_held)
        await come_to(lambda: self.network.endpoint.is_attached and self.network.bridge.is_attached)

    @precondition(lambda self: self.is_joined)
    @rule()
    def cut(self):
        self.portal.call(self.disconnect)
        self.is_joined = False

    async def disconnect(self):
        self.network.endpoint.cut()
        self.network.bridge.cut()
        await come_to(lambda: not self.network.running)

    @precondition(lambda self: self.is_joined)
    @rule(side=st.sampled_from([0, 1]), count=st.integers(1, 5))
    def deliver(self, side, count):
        self.portal.call(self.network.wires[side].deliver, count)

    @rule(turns=st.integers(1, 30))
    def pass_time(self, turns):
        self.portal.call(self.turn, turns)

    async def turn(self, turns):
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()

    @rule(target=calls, side=SIDES, size=SIZES)
    def call(self, side, size):
        number = len(self.bodies)
        self.bodies[number] = bytes([number % 256]) * size
        return number, self.portal.call(self.network.call, side, number, self.bodies[number])

    @rule(call=calls)
    def cancel(self, call):
        number, stream = call
        self.may_fail.add(number)
        self.portal.call(stream.cancel, ConnectionLost("the caller left"))

    @rule(count=st.integers(1, 5))
    def notify(self, count):
        for _ in range(count):
            assert self.portal.call(self.network.endpoint.send_event, b"%d" % self.sent)
            self.sent += 1

    @precondition(lambda self: not self.is_joined)
    @rule()
    def restart(self):
        """Lose what is under way, as when one of the two processes is killed."""
        self.may_fail |= self.bodies.keys() - self.network.outcomes.keys()
        self.portal.call(self.network.endpoint.reset, ConnectionLost("restarted"))
        self.portal.call(self.network.bridge.reset, ConnectionLost("restarted"))
        self.sure = self.heard()
        self.sent = len(self.sure)

    @invariant()
    def no_peer_breaks_the_protocol(self):
        assert not self.network.endpoint.is_broken
        assert not self.network.bridge.is_broken

    @invariant()
    def notifications_come_once_and_in_order(self):
        heard = self.heard()
        assert heard == list(range(len(heard)))
        assert len(heard) <= self.sent


TestLink = LinkMachine.TestCase
TestLink.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
