"""Open tunnels to the hosts of children that ask for one, and only to hosts of their own jobs."""

import logging
from collections.abc import Awaitable, Callable

import anyio
import attrs

from orbit_core.errors import InvalidBody, NoRoute, OrbitError
from orbit_core.models import check_name
from orbit_core.ways.models import ReverseAnswer, ReverseRequest
from orbit_core.ways.ssh import SSHSettings, open_reverse

from .child import Child

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0
"""Seconds between looks for a request."""

TUNNEL_PATIENCE = 15.0


@attrs.frozen(eq=False)
class ReverseTunnels:
    """Open tunnels for one parent; ``target`` is its bridge's HOST:PORT."""

    ssh: SSHSettings
    target: str

    async def serve(self, child: Child, nodes: Callable[[], Awaitable[list[str]]]) -> None:
        """Answer a child's requests until cancelled; ``nodes`` are those of its job."""
        done = ""
        while True:
            request = await self._request(child)
            if request is not None and request.id != done:
                done = request.id
                await self._answer(child, request, nodes)
            await anyio.sleep(LOOK_INTERVAL)

    async def _request(self, child: Child) -> ReverseRequest | None:
        try:
            return await child.meeting.read("request", ReverseRequest)
        except InvalidBody as error:
            logger.warning("a request for a tunnel is refused: %s", error.detail)
            return None

    async def _answer(
        self, child: Child, request: ReverseRequest, nodes: Callable[[], Awaitable[list[str]]]
    ) -> None:
        """Open a tunnel and keep it while it is wanted, or say why not."""
        try:
            host = check_request(request, child.name, await nodes())
            async with open_reverse(
                self.ssh, host, self.target, patience=TUNNEL_PATIENCE
            ) as tunnel:
                child.tunnel = tunnel
                await child.meeting.write("answer", ReverseAnswer(request.id, tunnel.port))
                logger.info("child %s has a tunnel to %s", child.name, host)
                while not tunnel.ended.is_set() and await self._request(child) == request:
                    with anyio.move_on_after(LOOK_INTERVAL):
                        await tunnel.ended.wait()
        except (OrbitError, OSError) as error:
            reason = error.detail if isinstance(error, OrbitError) else str(error)
            logger.warning("no tunnel for %s: %s", child.name, reason)
            await self._refuse(child, request, reason)
        finally:
            child.tunnel = None

    async def _refuse(self, child: Child, request: ReverseRequest, reason: str) -> None:
        try:
            await child.meeting.write("answer", ReverseAnswer(request.id, reason=reason))
        except OSError as error:
            logger.warning("the child %s is not told: %s", child.name, error)


def check_request(request: ReverseRequest, name: str, nodes: list[str]) -> str:
    """Return the host to open a tunnel to: one of the job's own, for its own child.

    Raises NoRoute for any other, and InvalidName for what is no host name.
    """
    if request.endpoint_name != name:
        raise NoRoute(f"the request is for {request.endpoint_name!r}, not for {name!r}")
    host = check_name(request.hostname, "host")
    short = host.partition(".")[0]
    if short not in {node.partition(".")[0] for node in nodes}:
        raise NoRoute(f"the host {host} is none of the job's: {', '.join(nodes) or 'it has none'}")
    return host
