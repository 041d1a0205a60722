"""Let another endpoint read one file on behalf of who may read it.

An endpoint that fetches a file speaks for itself, not for who asked it to: were that enough,
anybody who may call it could have it fetch what only its owner may read. So it shows a ticket,
which the caller asked for here in its own name: for one file, for that endpoint alone, and for a
short time.
"""

import hashlib
import secrets
import time
from collections import OrderedDict

import attrs

from orbit_core.models import Principal

from .errors import TicketRefused
from .paths import Place

HEADER = "Orbit-Ticket"

LIFE = 3600.0
"""Seconds for which a ticket may be shown; what it let begin goes on."""

MOST = 10_000
"""Tickets that are kept; one more takes the place of the oldest."""


@attrs.frozen
class Grant:
    """Say what a ticket is for: one place, read by ``endpoint`` on behalf of a session's user."""

    place: Place
    principal: Principal
    sid: str
    endpoint: str
    until: float


class Tickets:
    """Keep the tickets of one plugin, in memory only: they end with the process."""

    def __init__(self) -> None:
        """Begin without any."""
        self._grants: OrderedDict[bytes, Grant] = OrderedDict()
        self._clock = time.monotonic

    def give(self, place: Place, principal: Principal, sid: str, endpoint: str) -> str:
        """Return a new ticket with which ``endpoint`` may read ``place``."""
        text = secrets.token_urlsafe(32)
        until = self._clock() + LIFE
        self._grants[_digest(text)] = Grant(place, principal, sid, endpoint, until)
        if len(self._grants) > MOST:
            self._grants.popitem(last=False)
        return text

    def check(self, text: str, principal: Principal) -> Grant:
        """Return what a ticket is for. Raises TicketRefused for any that is not the caller's."""
        grant = self._grants.get(_digest(text))
        if grant is None or grant.until < self._clock() or principal.endpoint != grant.endpoint:
            raise TicketRefused(
                "this ticket is not valid here, not any more, or not for your endpoint: "
                "ask for a new one"
            )
        return grant


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()
