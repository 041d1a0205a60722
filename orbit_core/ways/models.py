"""Name the ways, and the values that parent and child leave for each other."""

from typing import Literal, get_args

import attrs

Way = Literal["direct", "proxy", "relay", "forward", "reverse"]
"""How a child may reach the bridge; ``auto`` tries them in this order."""

Tunnel = Literal["none", "proxy", "relay", "forward", "reverse", "auto"]
"""What a child may be told; ``none`` dials as every endpoint does."""

WAYS: tuple[Way, ...] = get_args(Way)
TUNNELS: tuple[Tunnel, ...] = get_args(Tunnel)


@attrs.frozen
class Route:
    """Say where a socket to the bridge is opened; ``timeout`` is the seconds that it may take.

    ``proxy`` is the URL of an HTTP proxy, True for the one that the environment names, None for no
    proxy; ``proxy_cert`` is the file of the certificate to trust it by. ``host`` and ``port``
    replace the bridge's own: a tunnel's end. ``pid`` is the process that keeps it open.
    """

    proxy: str | bool | None = True
    proxy_cert: str | None = None
    host: str | None = None
    port: int | None = None
    pid: int | None = None
    timeout: float = 15.0


@attrs.frozen
class Plan:
    """Tell a child what its parent knows: the login host, and how to use ssh there."""

    login: str
    ssh_options: list[str] = attrs.field(factory=list)
    known_hosts: str | None = None
    trust_new_hosts: bool = True


@attrs.frozen
class RelayAddress:
    """Tell a child where its parent's relay listens; ``cert`` is the file to trust it by."""

    hosts: list[str]
    port: int
    cert: str | None = None


@attrs.frozen
class ReverseRequest:
    """Ask a parent to open a tunnel to the host that a child runs on."""

    id: str
    endpoint_name: str
    hostname: str


@attrs.frozen
class ReverseAnswer:
    """Tell a child the port of its tunnel on its own host, or why there is none."""

    request: str
    port: int | None = None
    reason: str | None = None


@attrs.frozen
class Report:
    """Tell a parent how its child fares: the way that it took, and why others were lost.

    ``way`` is None while none is open.
    """

    way: Way | None = None
    port: int | None = None
    pid: int | None = None
    lost: dict[str, str] = attrs.field(factory=dict)
