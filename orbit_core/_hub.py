"""Lend plugins the client API over their host's own link, made when one of them first asks."""

from contextlib import AsyncExitStack
from importlib import import_module
from types import ModuleType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from ._link import Link
from .errors import DeadlineExceeded

EXPIRY_INTERVAL = 1.0
"""Seconds between looks for overdue calls."""


async def expire_calls(link: Link) -> None:
    """Fail this side's calls that are overdue, until cancelled."""
    while True:
        await anyio.sleep(EXPIRY_INTERVAL)
        link.expire(lambda deadline: DeadlineExceeded(f"no answer within {deadline:g} s"))


class Hub:
    """Make the client once. Few plugins call others, and the HTTP client takes time to import.

    Use it as an asynchronous context manager.
    """

    def __init__(self, link: Link) -> None:
        """Have the client's requests go over ``link``."""
        self._link = link
        self._stack = AsyncExitStack()
        self._group: TaskGroup | None = None
        self._client: Any = None

    async def __aenter__(self) -> Self:
        """Begin to own what the client runs."""
        self._group = await self._stack.enter_async_context(anyio.create_task_group())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the client, if there is one."""
        try:
            if self._client is not None:
                await self._client.close()
        finally:
            await self._stack.aclose()

    def __call__(self) -> Any:
        """Return the client."""
        if self._client is None:
            client, transport = self.load()
            sender = transport.LinkTransport(self._link)
            self._client = client.AsyncBridgeClient.over(sender, "http://bridge", self._group)
        return self._client

    @staticmethod
    def load() -> tuple[ModuleType, ModuleType]:
        """Import what makes the client, which reads files."""
        return import_module(".client", __package__), import_module("._link_transport", __package__)
