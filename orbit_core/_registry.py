"""Keep who is linked to the bridge, how alive each is, and tell everybody what changed."""

import logging
import secrets
import time
from collections.abc import Callable
from functools import partial

import anyio
from starlette.types import ASGIApp

from ._carrier import Socket
from ._frames import Kind, ProtocolError, pack_joined, pack_value
from ._hello import unpack_hello
from ._link import Link
from ._member import Applicant, Member
from ._tasks import Starter
from ._wire_events import unpack_event
from .errors import DeadlineExceeded, EndpointLost, NameInUse, OrbitError, UnknownEndpoint
from .models import EndpointInfo, Notification, Principal, Role, Topology

logger = logging.getLogger(__name__)

TOPOLOGY_INTERVAL = 0.2
"""Least seconds between two announcements of changes; the first goes out at once."""

HELLO_TIMEOUT = 10.0
"""Seconds after its handshake in which an endpoint must say who it is."""

FLUSH_TIMEOUT = 1.0

EXPIRY_INTERVAL = 0.25
"""Seconds between looks for overdue calls."""

Deliver = Callable[[Notification], None]


class Registry:
    """Register endpoints, find their links, and announce changes, coalesced."""

    def __init__(self, deliver: Deliver, grace: float, tasks: Starter) -> None:
        """Pass the endpoints' notifications to ``deliver`` and run their calls as ``tasks``.

        ``grace`` is the seconds that an endpoint without a socket stays ``suspect``.
        """
        self._app: Callable[[Principal], ASGIApp]
        self._deliver = deliver
        self._grace = grace
        self._tasks = tasks
        self._members: dict[str, Member] = {}
        self._changed: set[str] = set()
        self._change = anyio.Event()
        self._on_change: list[Callable[[Topology], None]] = []

    def serve_with(self, app: Callable[[Principal], ASGIApp]) -> None:
        """Serve an endpoint's own calls with ``app(principal)``."""
        self._app = app

    def on_change(self, callback: Callable[[Topology], None]) -> None:
        """Call ``callback`` with the topology after each announced change."""
        self._on_change.append(callback)

    @property
    def members(self) -> list[Member]:
        """Return the registered endpoints, oldest first."""
        return list(self._members.values())

    def get(self, name: str) -> Member:
        """Return the endpoint called ``name``. Raises UnknownEndpoint."""
        member = self._members.get(name)
        if member is None:
            raise UnknownEndpoint(
                f"no endpoint {name!r} is connected: GET /endpoints, or orbit endpoints, lists "
                "those that are"
            )
        return member

    def topology(self) -> Topology:
        """Return who is connected."""
        return Topology(
            {member.name: member.info for member in self._members.values() if member.info}
        )

    def admit(self, applicant: Applicant) -> tuple[Member, bool]:
        """Register an applicant, and tell whether its earlier link goes on.

        Raises NameInUse if another endpoint holds the name and the resume key does not fit.
        """
        member = self._members.get(applicant.name)
        if member is None:
            return self._add(applicant, secrets.token_urlsafe(24)), False
        if not member.is_proved_by(applicant):
            held = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(member.since))
            raise NameInUse(
                f"the endpoint name {member.name!r} is in use "
                f"from {member.applicant.address} since {held}: "
                "choose another name, or stop that endpoint"
            )
        member.link.cut()
        if member.applicant.process == applicant.process and not member.link.is_broken:
            member.applicant = applicant
            return member, True
        member.link.reset(EndpointLost(f"endpoint {member.name} was restarted during the call"))
        return self._add(applicant, member.resume_key), False

    async def carry(self, member: Member, socket: Socket, peer_received: int) -> None:
        """Run a member's link on a socket until it closes; the member is suspect from then on."""
        member.suspect_since = None
        self._note(member)
        try:
            await member.link.run(socket, peer_received)
        finally:
            if self._members.get(member.name) is member and not member.link.is_attached:
                member.suspect_since = time.monotonic()
                self._note(member)

    def remove(self, name: str, error: OrbitError) -> None:
        """Forget an endpoint; its calls end with ``error``. Raises UnknownEndpoint."""
        member = self.get(name)
        del self._members[name]
        member.link.reset(error)
        member.link.cut()
        self._changed.add(name)
        self._change.set()

    def end(self, error: OrbitError) -> None:
        """Call no endpoint any more, and serve none: what is in flight ends with ``error``."""
        for member in self.members:
            member.link.end(error)

    async def shut_down(self, name: str, reason: str) -> None:
        """Tell an endpoint to leave and forget it. Raises UnknownEndpoint."""
        member = self.get(name)
        member.link.send(Kind.SHUTDOWN, 0, pack_value({"reason": reason}))
        with anyio.move_on_after(FLUSH_TIMEOUT):
            await member.link.flush()
        self.remove(name, EndpointLost(f"endpoint {name} was disconnected: {reason}"))

    async def run(self) -> None:
        """Announce changes, expire calls and drop the lost, until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._announce)
            group.start_soon(self._expire)

    def _add(self, applicant: Applicant, resume_key: str) -> Member:
        member = Member(applicant, resume_key)
        principal = Principal(applicant.owner, Role.ENDPOINT, applicant.token_id, applicant.name)
        member.link = Link(
            self._app(principal), self._tasks, partial(self._hear, member), first_id=2
        )
        self._members[member.name] = member
        return member

    def _hear(self, member: Member, kind: Kind, payload: memoryview) -> None:
        match kind:
            case Kind.HELLO:
                self._welcome(member, payload)
            case Kind.EVENT:
                self._event(member, payload)
            case Kind.SHUTDOWN:
                self._tasks.start_soon(self._leave, member)

    def _welcome(self, member: Member, payload: memoryview) -> None:
        if member.info is not None:
            raise ProtocolError("a second hello")
        hello = unpack_hello(payload)
        member.info = EndpointInfo(role=hello.role, plugins=hello.plugins)
        member.shared = hello.shared
        self._note(member)
        member.link.send(Kind.WELCOME, 0, b"")
        logger.info(
            "endpoint %s joins from %s with %s",
            member.name,
            member.applicant.address,
            ", ".join(hello.plugins) or "no plugins",
        )

    async def _leave(self, member: Member) -> None:
        if self._members.get(member.name) is member:
            logger.info("endpoint %s leaves", member.name)
            self.remove(member.name, EndpointLost(f"endpoint {member.name} was stopped"))

    def _event(self, member: Member, payload: memoryview) -> None:
        member.notifications += 1
        host_owner = None if member.shared else member.applicant.owner
        self._deliver(unpack_event(payload, member.name, host_owner))

    def _note(self, member: Member) -> None:
        """Mark a member for the next announcement, with its present liveness."""
        if member.note_liveness():
            self._changed.add(member.name)
            self._change.set()

    async def _announce(self) -> None:
        while True:
            await self._change.wait()
            self._change = anyio.Event()
            changed, self._changed = self._changed, set()
            self._tell(changed)
            topology = self.topology()
            for callback in self._on_change:
                callback(topology)
            await anyio.sleep(TOPOLOGY_INTERVAL)

    def _tell(self, changed: set[str]) -> None:
        """Send who changed to everybody, and everything to those who have just joined."""
        change = self._pack_changes(changed)
        whole = b""
        for member in self.members:
            if member.has_whole:
                member.link.send(Kind.TOPOLOGY, 0, change)
            elif member.info is not None:
                whole = whole or self._pack_whole()
                member.link.send(Kind.TOPOLOGY, 0, whole)
                member.has_whole = True

    def _pack_whole(self) -> bytes:
        known = [member.packed for member in self._members.values() if member.info is not None]
        return pack_joined([pack_value("whole") + pack_joined(known)])

    def _pack_changes(self, names: set[str]) -> bytes:
        present = [member for name in names if (member := self._members.get(name)) is not None]
        changed = [member.packed for member in present if member.info is not None]
        gone = sorted(names - {member.name for member in present})
        return pack_joined(
            [pack_value("changed") + pack_joined(changed), pack_value("gone") + pack_value(gone)]
        )

    async def _expire(self) -> None:
        while True:
            await anyio.sleep(EXPIRY_INTERVAL)
            now = time.monotonic()
            for member in self.members:
                if member.link.streams:
                    member.link.expire(partial(_overdue, member.name))
                if self._is_lost(member, now):
                    logger.warning("endpoint %s is lost", member.name)
                    self.remove(
                        member.name,
                        EndpointLost(
                            f"endpoint {member.name} is lost: its link broke and it did not return"
                        ),
                    )

    def _is_lost(self, member: Member, now: float) -> bool:
        if member.info is None:
            return now - member.admitted > HELLO_TIMEOUT
        return member.suspect_since is not None and now - member.suspect_since > self._grace


def _overdue(name: str, deadline: float) -> OrbitError:
    return DeadlineExceeded(f"endpoint {name} gave no sign of an answer within {deadline:g} s")
