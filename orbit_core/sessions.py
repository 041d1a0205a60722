"""Keep one plugin instance's sessions: owners, lifetimes, expiry, return after a restart."""

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import anyio
import attrs

from ._codec import from_wire, to_data
from ._guard import outlive
from ._lifetimes import Access, Lifetimes, check_default_policy, policy
from ._session import PluginSession as PluginSession
from ._store import Space
from .errors import (
    Forbidden,
    SessionConflict,
    SessionExpired,
    StateUnavailable,
    UnknownSession,
)
from .models import (
    OWN_PREFIX,
    Principal,
    SessionRecord,
    SessionRequest,
    Topology,
    check_name,
    own_sid,
)

logger = logging.getLogger(__name__)

DEFAULT_SID = "default"
"""The reserved session: persistent, owner-less, made on first use."""

EXPIRED_KEPT = 10_000
"""How many expired session ids are remembered, so that they stay 410."""

SWEEP_INTERVAL = 5.0
"""Seconds between looks for idle sessions."""

CLOSE_TIMEOUT = 30.0
"""Seconds that a session has to close, or to let go."""


@attrs.define(eq=False)
class _Entry:
    """Hold a session; while it is not ``ready``, as it starts or closes, who wants it waits."""

    record: SessionRecord
    session: PluginSession
    access: Access
    ready: anyio.Event = attrs.field(factory=anyio.Event)


Factory = Callable[[str, dict[str, Any], str | None], PluginSession]


class Sessions:
    """Own the sessions of one plugin instance."""

    def __init__(
        self,
        factory: Factory,
        documents: Space,
        idle_ttl: float,
        *,
        on_end: Callable[[str], None] = lambda sid: None,
        busy: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """Take what builds a session, where records are kept, and the idle seconds (0: never).

        ``on_end(sid)`` is called when a session is over; ``busy()`` names those that are in use
        though nobody asks for them.
        """
        self._factory = factory
        self._documents = documents
        self._lifetimes = Lifetimes(idle_ttl)
        self._on_end = on_end
        self._busy = busy
        self._entries: dict[str, _Entry] = {}
        self._dormant: dict[str, SessionRecord] = {}
        self._expired: dict[str, str | None] = {}
        # Seconds since the epoch that do not jump when somebody sets the clock.
        offset = time.time() - time.monotonic()
        self._clock: Callable[[], float] = lambda: time.monotonic() + offset

    def __len__(self) -> int:
        """Count the live sessions."""
        return len(self._entries)

    async def restore(self) -> None:
        """Bring back what was there before a restart.

        A session that fails to start is logged, and tried again when its owner asks for it.
        """
        documents = await self._documents.items()
        past = {sid: data for sid, data in documents.items() if "expired" in data}
        for sid in sorted(past, key=lambda sid: float(past[sid]["expired"])):
            self._expired[sid] = past[sid]["owner"]
        async with anyio.create_task_group() as group:
            for sid in documents.keys() - past.keys():
                group.start_soon(self._bring_back, sid, documents[sid])

    async def _bring_back(self, sid: str, data: object) -> None:
        with outlive(logger, "session %s does not come back", sid):
            self._dormant[sid] = from_wire(data, SessionRecord, "session record")
            await self._wake(sid)

    async def register(self, principal: Principal, body: dict[str, Any]) -> PluginSession:
        """Make a session, or reattach to the one that ``sid`` names; one that expired starts anew.

        Raises InvalidName, InvalidBody, SessionConflict (contradicting policy), Forbidden
        (somebody else's session, or an id kept for somebody else).
        """
        wanted = from_wire(body, SessionRequest)
        settings = {
            key: value for key, value in body.items() if key not in ("sid", "lifetime", "ttl")
        }
        sid = self._new_sid() if wanted.sid is None else check_name(wanted.sid, "session id")
        try:
            entry = await self._find(principal, sid)
        except SessionExpired:
            entry = None
        if sid == DEFAULT_SID:
            check_default_policy(wanted)
            return entry.session if entry else await self._begin_default()
        lifetime, ttl = policy(wanted)
        if entry is None:
            owner = self._expired.get(sid) or principal.owner_key
            if sid.startswith(OWN_PREFIX) and sid != own_sid(owner):
                raise Forbidden(f"session {sid} is kept for another owner: choose another id")
            now = self._clock()
            record = SessionRecord(sid, owner, lifetime, ttl, now, now, settings)
            return await self._begin(record, restored=False)
        if (lifetime, ttl) != (entry.record.lifetime, entry.record.ttl):
            raise SessionConflict(
                f"session {sid} has lifetime {entry.record.lifetime} and ttl {entry.record.ttl}: "
                "ask for the same"
            )
        return entry.session

    async def get(self, principal: Principal, sid: str) -> PluginSession:
        """Return a live session for use, and note the access.

        Raises UnknownSession, SessionExpired, Forbidden.
        """
        entry = await self._find(principal, sid)
        if entry is not None:
            return entry.session
        if sid == DEFAULT_SID:
            return await self._begin_default()
        raise _unknown(sid)

    async def unregister(self, principal: Principal, sid: str) -> None:
        """Close a session and forget it. Raises UnknownSession, SessionExpired, Forbidden."""
        if sid in self._dormant and sid not in self._entries:
            _check_owner(principal, sid, self._dormant[sid].owner)
            del self._dormant[sid]
            await self._documents.delete(sid)
            return
        entry = await self._find(principal, sid)
        if entry is None:
            raise _unknown(sid)
        entry.ready = anyio.Event()
        with anyio.CancelScope(shield=True):
            try:
                await self._documents.delete(sid)
                await self._end(entry)
                del self._entries[sid]
            finally:
                entry.ready.set()

    def visible_to(self, principal: Principal) -> list[str]:
        """List the ids that a principal may use, oldest first."""
        records = [*self._dormant.values(), *(entry.record for entry in self._entries.values())]
        usable = {record.sid: record for record in records if principal.may_use(record.owner)}
        return sorted(usable, key=lambda sid: usable[sid].created)

    def hear_topology(self, topology: Topology) -> None:
        """Note which endpoints are connected: they own the sessions that their plugins opened."""
        self._lifetimes.topology = topology

    async def sweep(self) -> None:
        """Close what outlived its policy, and write down the accesses since the last sweep."""
        for sid in self._busy():
            if sid in self._entries:
                self._entries[sid].access.touched = self._clock()
        for entry in list(self._entries.values()):
            if entry.ready.is_set() and self._is_over(entry):
                await self._expire(entry)
        changed = [
            (entry, attrs.evolve(entry.record, last_access=entry.access.touched))
            for entry in self._entries.values()
            if entry.ready.is_set() and entry.access.touched != entry.record.last_access
        ]
        if changed:
            await self._documents.put_all({record.sid: to_data(record) for _, record in changed})
        for entry, record in changed:
            entry.record = record

    async def suspend(self) -> None:
        """Let every session go without ending it; it comes back with the next start."""
        try:
            await self.sweep()
        except StateUnavailable as error:
            logger.warning("the last accesses to sessions are not kept: %s", error)
        async with anyio.create_task_group() as group:
            for sid, entry in self._entries.items():
                if entry.ready.is_set():
                    group.start_soon(_in_time, sid, entry.session.suspend)

    def _new_sid(self) -> str:
        tables = (self._entries, self._dormant, self._expired)
        minted = iter(lambda: f"session.{secrets.token_hex(4)}", "")
        return next(sid for sid in minted if not any(sid in table for table in tables))

    async def _find(self, principal: Principal, sid: str) -> _Entry | None:
        """Return a session that the principal may use and that is not over, and note the access."""
        while (entry := self._entries.get(sid)) is not None and not entry.ready.is_set():
            await entry.ready.wait()
        if entry is None and sid in self._dormant:
            _check_owner(principal, sid, self._dormant[sid].owner)
            entry = await self._wake(sid)
        if entry is None:
            if sid in self._expired:
                _check_owner(principal, sid, self._expired[sid])
                raise _over(sid)
            return None
        _check_owner(principal, sid, entry.record.owner)
        if self._is_over(entry):
            await self._expire(entry)
            raise _over(sid)
        entry.access.touched = self._clock()
        return entry

    async def _wake(self, sid: str) -> _Entry:
        await self._begin(self._dormant[sid], restored=True)
        del self._dormant[sid]
        return self._entries[sid]

    async def _begin_default(self) -> PluginSession:
        now = self._clock()
        record = SessionRecord(DEFAULT_SID, None, "persistent", None, now, now)
        return await self._begin(record, restored=False)

    async def _begin(self, record: SessionRecord, *, restored: bool) -> PluginSession:
        """Start a session; whoever asks for it meanwhile waits for the outcome."""
        session = self._factory(record.sid, record.settings, record.owner)
        entry = self._entries[record.sid] = _Entry(record, session, Access(record.last_access))
        has_expired = self._expired.pop(record.sid, None) is not None
        try:
            await session.start(restored=restored)
            if not restored:
                await self._write_down(entry)
        except BaseException:  # cancelled, too: a session that did not start is not there
            del self._entries[record.sid]
            if has_expired:
                self._expired[record.sid] = record.owner
            raise
        finally:
            entry.ready.set()
        return session

    async def _write_down(self, entry: _Entry) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await self._documents.put(entry.record.sid, to_data(entry.record))
            except StateUnavailable:
                await self._end(entry)
                raise

    def _is_over(self, entry: _Entry) -> bool:
        return self._lifetimes.is_over(entry.record, entry.access, self._clock())

    async def _expire(self, entry: _Entry) -> None:
        sid = entry.record.sid
        if self._entries.get(sid) is not entry:
            return
        entry.ready = anyio.Event()
        logger.info("session %s expired", sid)
        with anyio.CancelScope(shield=True):
            await self._end(entry)
            self._expired[sid] = entry.record.owner
            try:
                await self._documents.put(
                    sid, {"expired": self._clock(), "owner": entry.record.owner}
                )
                await self._forget_oldest()
            except StateUnavailable as error:
                logger.warning("session %s expired, which is not kept: %s", sid, error)
            del self._entries[sid]
            entry.ready.set()

    async def _end(self, entry: _Entry) -> None:
        await _in_time(entry.record.sid, entry.session.close)
        self._on_end(entry.record.sid)

    async def _forget_oldest(self) -> None:
        surplus = list(self._expired)[: max(0, len(self._expired) - EXPIRED_KEPT)]
        for sid in surplus:
            del self._expired[sid]
        await self._documents.delete(*surplus)


async def _in_time(sid: str, act: Callable[[], Awaitable[Any]]) -> None:
    """Have a session close or let go; one that fails or dawdles keeps nobody."""
    with outlive(logger, "session %s failed to close", sid), anyio.fail_after(CLOSE_TIMEOUT):
        await act()


def _check_owner(principal: Principal, sid: str, owner: str | None) -> None:
    if not principal.may_use(owner):
        raise Forbidden(f"session {sid} belongs to somebody else: register your own")


def _over(sid: str) -> SessionExpired:
    return SessionExpired(f"session {sid} expired: register a new one")


def _unknown(sid: str) -> UnknownSession:
    return UnknownSession(f"unknown session id: {sid}")
