"""Ask the bridge for the tokens of children, over the parent's own link."""

import logging

import anyio

from orbit_core import PluginContext
from orbit_core.errors import OrbitError, Unavailable, UnknownToken

logger = logging.getLogger(__name__)

LONGEST = 30 * 24 * 3600.0
"""Seconds that a token lives while its job waits in the queue: as long as the bridge allows."""

MARGIN = 120.0
"""Seconds that a token outlives the walltime of its job, which is a moment late itself."""

RETRY_INTERVAL = 10.0


class ChildTokens:
    """Speak for one parent with its bridge."""

    def __init__(self, context: PluginContext) -> None:
        """Use the parent's hub."""
        self._context = context

    def check(self) -> None:
        """Raise Unavailable where there is no bridge."""
        if self._context.hub is None:
            raise Unavailable("a child endpoint needs a bridge, and this one is linked to none")

    async def mint(self, name: str) -> str:
        """Return a new token for the child called ``name``; one of before ends."""
        body = {"name": name, "expires": LONGEST}
        return str((await self._context.hub.request("POST", "/endpoint/children", body))["token"])

    async def limit(self, name: str, walltime: float) -> None:
        """Have a child's token end with its job, which starts now."""
        await self._context.hub.request(
            "PATCH", f"/endpoint/children/{name}", {"expires": walltime + MARGIN}
        )

    async def revoke(self, name: str) -> None:
        """End a child's token, however long the bridge is away."""
        while True:
            try:
                await self._context.hub.request("DELETE", f"/endpoint/children/{name}")
            except UnknownToken:
                return
            except OrbitError as error:
                logger.warning("the token of %s is not revoked yet: %s", name, error.detail)
                await anyio.sleep(RETRY_INTERVAL)
            else:
                return
