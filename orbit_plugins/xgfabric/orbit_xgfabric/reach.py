"""Reach the plugins of other endpoints over this host's own link, waiting out their absences."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import anyio
import attrs

from orbit_core import Topology
from orbit_core.errors import (
    Forbidden,
    GatewayTimeout,
    RequestInFlight,
    TooManyRequests,
    Unavailable,
    UnknownEndpoint,
)

from .failures import ClusterLost

logger = logging.getLogger(__name__)

AWAY = (GatewayTimeout, RequestInFlight, TooManyRequests, Unavailable, UnknownEndpoint)
"""The errors of an endpoint that is away, or busy, and may answer when asked again."""

FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0

T = TypeVar("T")


@attrs.frozen
class Watch:
    """Watch an endpoint that is away: ``check`` raises once it has ended, ``what`` names it."""

    what: str
    check: Callable[[], Awaitable[None]]


async def patiently(
    cluster: str,
    act: Callable[[], Awaitable[T]],
    limit: float,
    watch: Watch | None = None,
) -> T:
    """Return what ``act`` does at ``cluster``, which is safe to repeat, again while that is away.

    ``watch`` is for an endpoint that may end for good, and with it its token. Raises ClusterLost
    after ``limit`` seconds, what ``watch`` does, and what else ``act`` raises.
    """
    begun, wait = time.monotonic(), FIRST_WAIT
    away = AWAY if watch is None else (*AWAY, Forbidden)
    what = f"cluster {cluster}" if watch is None else watch.what
    while True:
        try:
            return await act()
        except away as error:
            if watch is not None:
                await watch.check()
            if time.monotonic() + wait > begun + limit:
                raise ClusterLost(
                    f"{what} has been away for {limit:g} s: {error.detail}"
                ) from error
            logger.info("%s is away: %s", what, error.detail)
        await anyio.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)


@attrs.define(eq=False)
class Fleet:
    """Know which endpoints are connected, and tell who waits when that changes."""

    topology: Topology = attrs.field(factory=Topology)
    _changed: anyio.Event = attrs.field(factory=anyio.Event)

    def hear(self, topology: Topology) -> None:
        """Take the endpoints that are connected now."""
        self.topology = topology
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def plugins(self, name: str) -> frozenset[str]:
        """Return the types of the plugins that an endpoint serves; none if it is not present."""
        found = self.topology.get(name)
        if found is None or found.liveness != "present":
            return frozenset()
        return frozenset(plugin.type for plugin in found.plugins.values())

    def names(self) -> Iterator[str]:
        """Iterate over the endpoints that are present, by name."""
        return (name for name in sorted(self.topology) if self.plugins(name))

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until ``condition``, which looks at the topology, holds; for so long at most."""
        with anyio.move_on_after(seconds):
            while not condition():
                await self._changed.wait()
        return condition()
