"""Be one endpoint that is registered with a bridge."""

import secrets
import time

import anyio
import attrs

from ._codec import to_data
from ._frames import pack_value
from ._link import CALL_LIMIT, Link
from .errors import TooManyRequests
from .models import EndpointInfo, HostDescription, Liveness, Principal

OWNER_LIMIT = CALL_LIMIT // 4
"""Calls to one endpoint that the tokens of one owner may have in flight, so that others can, too.
"""


@attrs.frozen
class Applicant:
    """Hold what a handshake says: name, who vouches, and what proves an earlier registration."""

    name: str
    owner: str
    token_id: str
    address: str
    process: str
    resume_key: str | None


@attrs.define(eq=False)
class Member:
    """Be one registered endpoint; times are on the monotonic clock, ``since`` is the wall's."""

    applicant: Applicant
    resume_key: str
    link: Link = attrs.field(init=False)
    since: float = attrs.field(factory=time.time)
    admitted: float = attrs.field(factory=time.monotonic)
    info: EndpointInfo | None = None
    shared: bool = False
    packed: bytes = b""
    has_whole: bool = False
    suspect_since: float | None = None
    notifications: int = 0
    callers: dict[str, int] = attrs.field(factory=dict)
    descriptions: HostDescription | None = None
    inquiry: anyio.Lock = attrs.field(factory=anyio.Lock)
    silent_until: float = 0.0

    @property
    def name(self) -> str:
        """Return the endpoint's name."""
        return self.applicant.name

    def count_in(self, owner: str) -> None:
        """Count one more call of ``owner`` in flight. Raises TooManyRequests."""
        count = self.callers.get(owner, 0)
        if count >= OWNER_LIMIT:
            raise TooManyRequests(
                f"{OWNER_LIMIT} calls of yours to {self.name} are in flight: wait for some",
                retry_after=1.0,
            )
        self.callers[owner] = count + 1

    def count_out(self, owner: str) -> None:
        """Count a call of ``owner`` that is over."""
        count = self.callers.pop(owner)
        if count > 1:
            self.callers[owner] = count - 1

    def serves(self, principal: Principal) -> bool:
        """Tell whether ``principal`` may call it: its plugins act as the user that runs it."""
        return self.shared or principal.may_call(self.applicant.owner)

    def is_proved_by(self, applicant: Applicant) -> bool:
        """Tell whether an applicant is the endpoint that holds the name."""
        same_key = secrets.compare_digest(
            self.resume_key.encode(), (applicant.resume_key or "").encode()
        )
        return same_key and self.applicant.owner == applicant.owner

    def note_liveness(self) -> bool:
        """Make up what everybody is told of it; False if it has not said hello yet."""
        if self.info is None:
            return False
        liveness: Liveness = "present" if self.suspect_since is None else "suspect"
        self.info = attrs.evolve(self.info, liveness=liveness)
        self.packed = pack_value(self.name) + pack_value(to_data(self.info))
        return True
