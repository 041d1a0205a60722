"""Name the values that travel: hosts, principals, notifications, topology, sessions."""

import hashlib
import re
import reprlib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Literal

import attrs

from ._page import UIConfig as UIConfig
from ._page import UIField as UIField
from ._page import UIForm as UIForm
from ._page import UIFormSubmit as UIFormSubmit
from ._page import UIMonitor as UIMonitor
from ._page import UINotifications as UINotifications
from .errors import InvalidName

RESERVED_NAMES = frozenset({
    "auth", "bridge", "docs", "endpoint", "endpoints", "events", "favicon.ico", "health", "metrics",
    "openapi.json", "plugins", "ready", "register", "static", "tokens",
})  # fmt: skip
"""First path segments that the bridge serves itself; no endpoint may be called so."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(value: object, what: str, *, reserved: frozenset[str] = frozenset()) -> str:
    """Return ``value`` if it is a safe name, so that it may become a path segment or a file name.

    Safe is ``[A-Za-z0-9][A-Za-z0-9._-]{0,63}`` without ``..`` and not in ``reserved``.
    ``what`` names the thing in the error.

    Raises InvalidName.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value) or ".." in value:
        raise InvalidName(
            f"{what} {reprlib.repr(value)} is not a valid name: use 1 to 64 of A-Z a-z 0-9 . _ -, "
            "starting with a letter or digit, without '..'"
        )
    if value.lower() in reserved:
        raise InvalidName(f"{what} {value!r} is a reserved word: choose another name")
    return value


OWN_PREFIX = "cli."
"""How the ids of the sessions begin in which `orbit` works, each for its owner alone."""


def own_sid(owner: str) -> str:
    """Return the id of the session in which ``owner`` works from the command line.

    A name that is too long to be part of it is replaced by its SHA-256.
    """
    sid = f"{OWN_PREFIX}{owner}"
    if len(sid) <= 64:
        return sid
    return f"{OWN_PREFIX}{hashlib.sha256(owner.encode()).hexdigest()[:60]}"


class HostRole(StrEnum):
    """Say what kind of host a process found itself on."""

    BRIDGE = "bridge"
    LOGIN = "login"
    COMPUTE = "compute"
    STANDALONE = "standalone"


@attrs.frozen
class HostInfo:
    """Describe the host to a plugin that decides whether it has anything to do here.

    ``scheduler`` is ``slurm``, ``pbs`` or ``none``; ``psij_executor`` the PSI/J executor that
    belongs to it; ``job_id`` the batch job that this process runs in, if any.
    """

    role: HostRole
    scheduler: str = "none"
    psij_executor: str = "local"
    job_id: str | None = None
    python_version: str = ""


class Role(StrEnum):
    """Say what a token may do: administer, use endpoints, or be one."""

    ADMIN = "admin"
    CLIENT = "client"
    ENDPOINT = "endpoint"


@attrs.frozen
class Principal:
    """Say who a request speaks for.

    ``owner`` is the name that its token was made for; ``endpoint`` is set when the speaker is an
    endpoint's plugin that calls through its hub.
    """

    owner: str
    role: Role
    token_id: str = ""
    endpoint: str | None = None

    @property
    def owner_key(self) -> str:
        """Return what owns this principal's sessions: an endpoint owns its own, not its owner's."""
        return f"endpoint:{self.endpoint}" if self.endpoint else self.owner

    def may_use(self, owner_key: str | None) -> bool:
        """Tell whether what ``owner_key`` (None: nobody) owns is this principal's to use."""
        return owner_key is None or owner_key == self.owner_key or self.role is Role.ADMIN

    def may_call(self, owner: str) -> bool:
        """Tell whether this principal may call an endpoint of ``owner`` that is not shared."""
        return self.owner == owner or self.role is Role.ADMIN


@attrs.frozen
class Token:
    """Describe a token as the bridge keeps it: never the token itself.

    ``created`` and ``expires`` are seconds since the epoch; ``expires`` None means never.
    ``voucher`` is the id of the token that vouches for this one, a child endpoint's, which ends
    with it.
    """

    id: str
    role: Role
    owner: str
    created: float
    expires: float | None = None
    endpoint: str | None = None
    voucher: str | None = None


@attrs.frozen
class Notification:
    """Carry one piece of news from a plugin to whoever listens.

    ``seq`` counts from 1 within one session (or, without a session, within the plugin instance),
    so that a listener sees gaps; ``time`` is seconds since the epoch at the sender. Only
    ``owner`` and admins receive it; None means everybody.
    """

    endpoint: str
    plugin: str
    topic: str
    data: Any
    session: str | None = None
    owner: str | None = None
    seq: int = 0
    time: float = 0.0


@attrs.frozen
class PluginInfo:
    """Describe one plugin instance as others see it."""

    type: str
    namespace: str
    version: str = ""
    enabled: bool = True


Liveness = Literal["present", "suspect", "lost"]


@attrs.frozen
class EndpointInfo:
    """Describe one endpoint in the topology; ``plugins`` is keyed by instance name."""

    role: str
    liveness: Liveness = "present"
    plugins: dict[str, PluginInfo] = attrs.field(factory=dict)


@attrs.frozen
class Topology(Mapping[str, EndpointInfo]):
    """Map endpoint names to what they are; iterates as the names."""

    endpoints: dict[str, EndpointInfo] = attrs.field(factory=dict)

    def __getitem__(self, name: str) -> EndpointInfo:
        """Return the endpoint called ``name``."""
        return self.endpoints[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.endpoints)

    def __len__(self) -> int:
        """Count the endpoints."""
        return len(self.endpoints)


@attrs.frozen
class PluginStatus:
    """Say what became of one plugin at start, and why.

    ``state`` is ``served``, ``not selected``, ``failed`` (its reason says at which gate) or
    ``disabled`` (it declined this host).
    """

    name: str
    type: str
    state: Literal["served", "not selected", "failed", "disabled"]
    reason: str = ""
    version: str = ""


JSON = "application/json"


@attrs.frozen
class RouteDescription:
    """Describe one route of a plugin: its path below the instance, and one line of what it does.

    ``body`` and ``answer`` are the JSON Schemas of the bodies, None where nobody said;
    ``media_type`` is what the body is written in.
    """

    path: str
    methods: list[str] = attrs.field(factory=list)
    summary: str = ""
    body: dict[str, Any] | None = None
    answer: dict[str, Any] | None = None
    media_type: str = JSON


@attrs.frozen
class PluginDescription:
    """Describe one served plugin in full: with its portal page and its routes."""

    type: str
    namespace: str
    version: str = ""
    enabled: bool = True
    ui_config: dict[str, Any] = attrs.field(factory=dict)
    routes: list[RouteDescription] = attrs.field(factory=list)


@attrs.frozen
class HostDescription:
    """Describe what one host serves, and why it does not serve the rest."""

    plugins: dict[str, PluginDescription] = attrs.field(factory=dict)
    statuses: list[PluginStatus] = attrs.field(factory=list)


Lifetime = Literal["ephemeral", "ttl", "persistent"]


@attrs.frozen
class SessionRequest:
    """Ask for a session: ``ttl`` in seconds goes with lifetime ``ttl`` only."""

    sid: str | None = None
    lifetime: Lifetime | None = None
    ttl: float | None = None


@attrs.frozen
class SessionReply:
    """Name the session that was opened, or found."""

    sid: str


@attrs.frozen
class SessionRecord:
    """Keep what a session needs to come back after a restart; times are seconds since the epoch."""

    sid: str
    owner: str | None
    lifetime: Lifetime
    ttl: float | None
    created: float
    last_access: float
    settings: dict[str, Any] = attrs.field(factory=dict)
