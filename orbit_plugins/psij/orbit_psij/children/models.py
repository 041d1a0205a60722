"""Name the values of child endpoints: what is asked for, what is kept, what is answered."""

from typing import Literal

import attrs

from orbit_core.ways.models import Tunnel, Way
from orbit_psij.models import Submission

Status = Literal["pending", "active", "done", "failed", "no_tunnel"]
"""How a child is: on its way, linked, over after it was linked, failed, or not there at all."""

Stage = Literal["queued", "running", "linking", "ready", "over"]
"""How far a child is: in the queue, its job running, trying its ways, linked, over."""


@attrs.frozen(kw_only=True)
class ChildSettings:
    """Hold what a site or a user sets for children, section ``[plugin.psij.children]``.

    ``setup`` are lines of shell that run before a child starts. ``login_host`` is what the compute
    nodes call this host. ``ssh_options`` are further arguments of ssh; ``known_hosts`` is a file of
    host keys, without which new hosts are trusted and remembered in a file of the plugin's own.
    ``patience`` is the seconds that a child may try to reach the bridge before it is given up,
    ``start_patience`` those that its job may take to run it. The relay listens on ``relay_host``
    and ``relay_port`` (0: any), with ``relay_cert`` and ``relay_key`` if given.
    """

    setup: list[str] = attrs.field(factory=list)
    login_host: str | None = None
    ssh_options: list[str] = attrs.field(factory=list)
    known_hosts: str | None = None
    patience: float = 45.0
    start_patience: float = 300.0
    relay_host: str = "0.0.0.0"
    relay_port: int = 0
    relay_cert: str | None = None
    relay_key: str | None = None


@attrs.frozen
class ChildSubmission:
    """Ask for a child endpoint: the job that runs it, its full name, and its way."""

    submission: Submission
    endpoint_name: str
    tunnel: Tunnel


@attrs.frozen
class ChildRecord:
    """Keep what a child needs to survive its parent; ``created`` is seconds since the epoch.

    ``folder`` is the name of its own folder. ``status`` is final once it has ``ended``, and nothing
    of it is left once that ``is_clear``.
    """

    endpoint_name: str
    folder: str
    tunnel: Tunnel
    created: float
    owner: str | None = None
    job_id: str | None = None
    status: Status = "pending"
    way: Way | None = None
    reason: str | None = None
    lost: dict[str, str] = attrs.field(factory=dict)
    ended: float | None = None
    is_clear: bool = False


@attrs.frozen
class ChildSubmitted:
    """Confirm a child endpoint: its job, and the name under which it will be linked."""

    job_id: str
    native_id: str | None
    endpoint_name: str


@attrs.frozen
class TunnelStatus:
    """Describe a child endpoint's tunnel.

    ``port`` and ``pid`` are those of an ssh tunnel: ``port`` is on the child's host. ``way`` is the
    one that the child took, ``lost`` tells why others were not open, ``reason`` why it failed.
    ``is_clear`` says that nothing of it is left.
    """

    endpoint_name: str
    status: Status
    stage: Stage = "over"
    port: int | None = None
    pid: int | None = None
    tunnel: Tunnel | None = None
    way: Way | None = None
    lost: dict[str, str] = attrs.field(factory=dict)
    reason: str | None = None
    job_id: str | None = None
    job_state: str | None = None
    is_clear: bool = True
