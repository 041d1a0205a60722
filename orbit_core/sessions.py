"""Keep one plugin instance's sessions: owners, lifetimes, expiry, and their return after a restart."""

import logging
import math
import secrets
import time
from collections.abc import Callable
from typing import Any

import attrs

from ._codec import from_wire, to_data
from ._store import Space
from .errors import Forbidden, OrbitError, SessionConflict, SessionExpired, UnknownSession
from .models import Lifetime, Principal, SessionRecord, SessionRequest, Topology, check_name

logger = logging.getLogger(__name__)

DEFAULT_SID = "default"
"""The reserved session: persistent, owner-less, made on first use."""

LOST_OWNER_DRAIN = 300.0
"""Seconds after which an ephemeral session of an endpoint that is gone is closed."""

EXPIRED_KEPT = 10_000
"""How many expired session ids are remembered, so that they stay 410."""

SWEEP_INTERVAL = 5.0
"""Seconds between looks for idle sessions."""


class PluginSession:
    """Hold one client's state inside one plugin; plain async methods that know nothing of HTTP.

    ``owner`` (None: everybody's) and ``notify`` are set by the host before `start` is called.
    """

    def __init__(self, sid: str, **settings: Any) -> None:
        """Keep the id; a subclass takes the keyword settings that its ``register_session`` accepts."""
        if settings:
            raise SessionConflict(
                f"this plugin's sessions take no settings, got: {', '.join(sorted(settings))}"
            )
        self.sid = sid
        self.is_active = True
        self.owner: str | None = None
        self.notify: Callable[[str, Any], None] = lambda topic, data: None

    async def start(self, *, restored: bool) -> None:
        """Begin work; ``restored`` tells that the session existed before the host was restarted."""

    async def close(self) -> dict[str, Any]:
        """Release everything the session holds; called once, at unregistering or expiry."""
        self.is_active = False
        return {}

    async def suspend(self) -> None:
        """Let go without ending anything: the host stops, and the session will come back."""

    def _check_active(self) -> None:
        if not self.is_active:
            raise SessionExpired(f"session {self.sid} is closed: register a new one")


@attrs.define(eq=False)
class _Entry:
    record: SessionRecord
    session: PluginSession
    touched: float
    owner_gone_since: float | None = None


Factory = Callable[[str, dict[str, Any], str | None], PluginSession]


class Sessions:
    """Own the sessions of one plugin instance."""

    def __init__(self, factory: Factory, documents: Space, idle_ttl: float) -> None:
        """Take the function that builds a session, where records are kept, and the idle seconds (0: never)."""
        self._factory = factory
        self._documents = documents
        self._idle_ttl = idle_ttl
        self._entries: dict[str, _Entry] = {}
        self._expired: dict[str, float] = {}
        self._topology = Topology()
        self._clock = time.time

    def __len__(self) -> int:
        """Count the live sessions."""
        return len(self._entries)

    async def restore(self) -> None:
        """Bring back what was there before a restart; a session that fails to start is logged."""
        for key, data in (await self._documents.items()).items():
            if "expired" in data:
                self._expired[key] = data["expired"]
                continue
            record = from_wire(data, SessionRecord, "session record")
            try:
                await self._begin(record, restored=True)
            except OrbitError as error:
                logger.error("session %s does not come back: %s", key, error.detail)

    async def register(self, principal: Principal, body: dict[str, Any]) -> PluginSession:
        """Make a session, or reattach to the one that ``sid`` names.

        Raises InvalidName, InvalidBody, SessionConflict (contradicting policy), Forbidden
        (somebody else's session), SessionExpired.
        """
        wanted = from_wire(body, SessionRequest)
        settings = {
            key: value for key, value in body.items() if key not in ("sid", "lifetime", "ttl")
        }
        if wanted.sid is not None:
            check_name(wanted.sid, "session id")
        entry = self._entries.get(wanted.sid or "")
        if entry is not None:
            return self._reattach(entry, principal, wanted)
        if wanted.sid == DEFAULT_SID:
            return await self._default(wanted)
        if wanted.sid in self._expired:
            raise SessionExpired(f"session {wanted.sid} expired: register a new one")
        lifetime, ttl = _policy(wanted)
        sid = wanted.sid or f"session.{secrets.token_hex(4)}"
        now = self._clock()
        record = SessionRecord(sid, principal.owner_key, lifetime, ttl, now, now, settings)
        return await self._begin(record, restored=False)

    async def get(self, principal: Principal, sid: str) -> PluginSession:
        """Return a live session for use, and note the access.

        Raises UnknownSession, SessionExpired, Forbidden.
        """
        entry = self._entries.get(sid)
        if entry is None:
            if sid == DEFAULT_SID:
                return await self._default(SessionRequest())
            if sid in self._expired:
                raise SessionExpired(f"session {sid} expired: register a new one")
            raise UnknownSession(f"unknown session id: {sid}")
        _check_owner(entry, principal)
        if self._is_over(entry):
            await self._expire(entry)
            raise SessionExpired(f"session {sid} expired: register a new one")
        entry.touched = self._clock()
        return entry.session

    async def unregister(self, principal: Principal, sid: str) -> None:
        """Close a session and forget it. Raises UnknownSession, SessionExpired, Forbidden."""
        session = await self.get(principal, sid)
        del self._entries[sid]
        await self._documents.delete(sid)
        await session.close()

    def visible_to(self, principal: Principal) -> list[str]:
        """List the ids that a principal may use, oldest first."""
        return [
            sid for sid, entry in self._entries.items() if principal.may_use(entry.record.owner)
        ]

    def hear_topology(self, topology: Topology) -> None:
        """Note which endpoints are connected: they own the sessions that their plugins opened."""
        self._topology = topology

    async def sweep(self) -> None:
        """Close what outlived its policy, and write down the accesses since the last sweep."""
        for entry in list(self._entries.values()):
            if self._is_over(entry):
                await self._expire(entry)
        changed = [
            entry for entry in self._entries.values() if entry.touched != entry.record.last_access
        ]
        for entry in changed:
            entry.record = attrs.evolve(entry.record, last_access=entry.touched)
        if changed:
            await self._documents.put_all(
                {entry.record.sid: to_data(entry.record) for entry in changed}
            )

    async def suspend(self) -> None:
        """Let every session go without ending it; it comes back with the next start."""
        await self.sweep()
        for entry in self._entries.values():
            await entry.session.suspend()

    async def _default(self, wanted: SessionRequest) -> PluginSession:
        if wanted.lifetime not in (None, "persistent") or wanted.ttl is not None:
            raise SessionConflict("the session 'default' is persistent: leave out lifetime and ttl")
        now = self._clock()
        return await self._begin(
            SessionRecord(DEFAULT_SID, None, "persistent", None, now, now), restored=False
        )

    async def _begin(self, record: SessionRecord, *, restored: bool) -> PluginSession:
        session = self._factory(record.sid, record.settings, record.owner)
        self._entries[record.sid] = _Entry(record, session, record.last_access)
        try:
            if not restored:
                await self._documents.put(record.sid, to_data(record))
            await session.start(restored=restored)
        except OrbitError:
            del self._entries[record.sid]
            if not restored:
                await self._documents.delete(record.sid)
            raise
        return session

    def _reattach(
        self, entry: _Entry, principal: Principal, wanted: SessionRequest
    ) -> PluginSession:
        _check_owner(entry, principal)
        record = entry.record
        if record.sid == DEFAULT_SID:
            same = wanted.lifetime in (None, "persistent") and wanted.ttl is None
        else:
            same = _policy(wanted) == (record.lifetime, record.ttl)
        if not same:
            raise SessionConflict(
                f"session {record.sid} has lifetime {record.lifetime} and ttl {record.ttl}: ask for the same"
            )
        entry.touched = self._clock()
        return entry.session

    def _is_over(self, entry: _Entry) -> bool:
        record, now = entry.record, self._clock()
        if record.lifetime == "persistent":
            return False
        if record.lifetime == "ttl" and record.ttl is not None:
            return now - entry.touched >= record.ttl
        owner = (record.owner or "").removeprefix("endpoint:")
        if owner != record.owner:
            return self._is_drained(entry, owner, now)
        return self._idle_ttl > 0 and now - entry.touched >= self._idle_ttl

    def _is_drained(self, entry: _Entry, owner: str, now: float) -> bool:
        if owner in self._topology:
            entry.owner_gone_since = None
            return False
        entry.owner_gone_since = entry.owner_gone_since or now
        return now - entry.owner_gone_since >= LOST_OWNER_DRAIN

    async def _expire(self, entry: _Entry) -> None:
        sid, now = entry.record.sid, self._clock()
        self._entries.pop(sid, None)
        self._expired[sid] = now
        await self._documents.put(sid, {"expired": now})
        await self._forget_oldest()
        logger.info("session %s expired", sid)
        await entry.session.close()

    async def _forget_oldest(self) -> None:
        surplus = list(self._expired)[: max(0, len(self._expired) - EXPIRED_KEPT)]
        for sid in surplus:
            del self._expired[sid]
        if surplus:
            await self._documents.delete(*surplus)


def _check_owner(entry: _Entry, principal: Principal) -> None:
    if not principal.may_use(entry.record.owner):
        raise Forbidden(f"session {entry.record.sid} belongs to somebody else: register your own")


def _policy(wanted: SessionRequest) -> tuple[Lifetime, float | None]:
    lifetime: Lifetime = wanted.lifetime or ("ephemeral" if wanted.ttl is None else "ttl")
    if lifetime != "ttl" and wanted.ttl is not None:
        raise SessionConflict(
            f"lifetime {lifetime} takes no ttl: leave it out, or ask for lifetime ttl"
        )
    if lifetime == "ttl" and not (wanted.ttl is not None and 0 < wanted.ttl < math.inf):
        raise SessionConflict(
            f"lifetime ttl takes a finite positive number of seconds as ttl, not {wanted.ttl}"
        )
    return lifetime, wanted.ttl
