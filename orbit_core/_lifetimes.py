"""Decide how long sessions live: what may be asked for, and when one is over."""

import attrs

from .errors import SessionConflict
from .models import EndpointInfo, Lifetime, SessionRecord, SessionRequest, Topology

LOST_OWNER_DRAIN = 300.0
"""Seconds after which an ephemeral session of an endpoint that is gone is closed."""


@attrs.define(eq=False)
class Access:
    """Note when a session was last asked for, and since when its owner is gone."""

    touched: float
    owner_gone_since: float | None = None


class Lifetimes:
    """Tell which sessions are over.

    ``persistent`` ends by unregistering only, ``ttl`` that long after the last access, and
    ``ephemeral`` after the idle seconds of its plugin or, where an endpoint owns it,
    `LOST_OWNER_DRAIN` after that endpoint is lost.
    """

    def __init__(self, idle_ttl: float) -> None:
        """Take the idle seconds after which an ephemeral session is over (0: never)."""
        # Nobody at all: this host is not linked, and knows of nobody's end.
        self.topology = Topology()
        self._idle_ttl = idle_ttl

    def is_over(self, record: SessionRecord, access: Access, now: float) -> bool:
        """Tell whether a session's time has come."""
        if record.lifetime == "persistent":
            return False
        if record.ttl is not None:
            return now - access.touched >= record.ttl
        if record.owner is not None and record.owner.startswith("endpoint:"):
            return self._is_drained(access, record.owner.removeprefix("endpoint:"), now)
        return 0 < self._idle_ttl <= now - access.touched

    def _is_drained(self, access: Access, owner: str, now: float) -> bool:
        if not self.topology or _is_there(self.topology.get(owner)):
            access.owner_gone_since = None
            return False
        if access.owner_gone_since is None:
            access.owner_gone_since = now
        return now - access.owner_gone_since >= LOST_OWNER_DRAIN


def _is_there(endpoint: EndpointInfo | None) -> bool:
    return endpoint is not None and endpoint.liveness != "lost"


def check_default_policy(wanted: SessionRequest) -> None:
    """Refuse a policy for the reserved session ``default``, which has its own."""
    if wanted.lifetime not in (None, "persistent") or wanted.ttl is not None:
        raise SessionConflict("the session 'default' is persistent: leave out lifetime and ttl")


def policy(wanted: SessionRequest) -> tuple[Lifetime, float | None]:
    """Return the lifetime and ttl that are asked for. Raises SessionConflict."""
    lifetime: Lifetime = wanted.lifetime or ("ephemeral" if wanted.ttl is None else "ttl")
    if lifetime != "ttl" and wanted.ttl is not None:
        raise SessionConflict(
            f"lifetime {lifetime} takes no ttl: leave it out, or ask for lifetime ttl"
        )
    if lifetime == "ttl" and not (wanted.ttl is not None and wanted.ttl > 0):
        raise SessionConflict(
            f"lifetime ttl takes a finite positive number of seconds as ttl, not {wanted.ttl}"
        )
    return lifetime, wanted.ttl
