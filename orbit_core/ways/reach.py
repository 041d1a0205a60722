"""Reach the bridge by the way that was told, or by the first of all that is open."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import attrs

from orbit_core._dial import Answer, Credentials, DialedSocket, dial
from orbit_core.config import Access, EndpointConfig
from orbit_core.errors import ConnectionLost, NoRoute, OrbitError

from .child import ChildWays
from .models import WAYS, Report, Route, Way
from .rendezvous import Rendezvous

logger = logging.getLogger(__name__)


class Reach:
    """Dial for one endpoint: the way that went last is tried first the next time."""

    def __init__(self, order: list[Way], ways: ChildWays | None = None) -> None:
        """Try the ways in this order; without ``ways`` dial as the environment says."""
        self._order = order
        self._ways = ways
        self._report: Report | None = None

    @classmethod
    def of(cls, name: str, access: Access, config: EndpointConfig) -> "Reach":
        """Return what an endpoint's settings ask for."""
        if config.tunnel_dir is None:
            return cls([])
        meeting = Rendezvous(config.tunnel_dir)
        ways = ChildWays(name, access.url, access.token, meeting, config.tunnel_via)
        match config.tunnel:
            case "none":
                return cls([], ways)
            case "auto":
                return cls(list(WAYS), ways)
            case way:
                return cls([way], ways)

    @asynccontextmanager
    async def link(
        self, access: Access, credentials: Credentials
    ) -> AsyncIterator[tuple[DialedSocket, Answer]]:
        """Open one WebSocket to the bridge.

        Raises NoRoute or ConnectionLost if no way is open, else the error with which the bridge
        refused.
        """
        lost: dict[str, str] = {}
        if self._report is None:
            await self._tell(Report())
        for way in tuple(self._order) or (None,):
            async with AsyncExitStack() as stack:
                try:
                    route = await self._open(stack, way)
                    dialed = await stack.enter_async_context(dial(access, credentials, route))
                except OrbitError as error:
                    lost[way or "direct"] = error.detail
                    await self._tell(Report(lost=lost))
                    if way is None or not isinstance(error, ConnectionLost):
                        raise
                    logger.info("the way %s is not open: %s", way, error.detail)
                    continue
                if way is not None:
                    self._order.sort(key=lambda each: each != way)
                await self._tell(Report(way or "direct", route.port, route.pid, lost))
                yield dialed
                return
        raise NoRoute("; ".join(_said(lost)))

    async def _open(self, stack: AsyncExitStack, way: Way | None) -> Route:
        if way is None or self._ways is None:
            return Route()
        return await stack.enter_async_context(self._ways.open(way))

    async def _tell(self, report: Report) -> None:
        """Leave a report for the parent, if it is another one."""
        if self._ways is None or report == self._report:
            return
        self._report = attrs.evolve(report, lost=dict(report.lost))
        try:
            await self._ways.rendezvous.write("report", report)
        except OSError as error:
            logger.warning("the parent is not told how it goes: %s", error)


def _said(lost: dict[str, str]) -> list[str]:
    return list(lost.values()) if len(lost) == 1 else [f"{way}: {why}" for way, why in lost.items()]
