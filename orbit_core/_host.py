"""Host plugins: what a bridge and an endpoint have in common."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import Receive, Scope, Send

from ._description import describe_route
from ._guard import outlive
from ._hooks import Hooks, open_hooks
from ._store import Store, open_store
from ._tasks import open_tasks
from .config import Access
from .context import Notifier, PluginContext
from .errors import ConfigError
from .models import (
    HostDescription,
    HostInfo,
    Notification,
    PluginDescription,
    PluginInfo,
)
from .plugins import Plugins, Served, installed, select
from .web import Reply, Site

logger = logging.getLogger(__name__)

STOP_TIMEOUT = 10.0
"""Seconds that each plugin has to let go when its host stops."""

RESERVED_INSTANCES = frozenset({"plugins"})


class _ByName(Router):
    """Look a plugin up by its name: Starlette tries one mount after the other, each by a regex."""

    def __init__(self, routes: list[BaseRoute], **options: Any) -> None:
        super().__init__(routes, **options)
        self._mounts = {route.path[1:]: route for route in routes if isinstance(route, Mount)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = scope["path"].split("/", 2)
        mount = self._mounts.get(parts[1]) if len(parts) > 2 and not scope["root_path"] else None
        if mount is None:
            await super().__call__(scope, receive, send)
            return
        # What Mount and Router put there: a route's path is what follows `root_path`.
        scope.update(router=self, app_root_path="", root_path=mount.path, path_params={})
        await mount.app(scope, receive, send)


class PluginHost:
    """Own one process's plugins, their state, their background tasks and their routes."""

    def __init__(self, name: str, host: HostInfo, store: Store, hooks: Hooks) -> None:
        """Be the host called ``name``; `open_host` makes one."""
        self.name = name
        self.host = host
        self.store = store
        self.hooks = hooks
        self._group: TaskGroup | None = None
        self._hub: Callable[[], Any] | None = None
        self._bridge = Access("")
        self._settings: Mapping[str, dict[str, Any]] = {}
        self._stops: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._notifier = Notifier(name, hooks.notify)
        self.plugins = Plugins(hooks, host, self._context_for)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let plugins be loaded and have tasks; leaving stops the plugins, then their tasks.

        What they are given, such as ``hub``, outlives this.
        """
        async with open_tasks() as self._group:
            try:
                yield
            finally:
                await self._stop()

    async def load(
        self,
        selectors: Iterable[str],
        *,
        settings: Mapping[str, dict[str, Any]],
        hub: Callable[[], Any] | None,
        bridge: Access | None = None,
        available: Mapping[str, EntryPoint] | None = None,
    ) -> None:
        """Take the selected plugins through the gates. Raises ConfigError for a bad selector."""
        known = await anyio.to_thread.run_sync(installed) if available is None else available
        self._settings, self._hub = settings, hub
        self._bridge = bridge or self._bridge
        selected = select(selectors, self.host.role, known)
        for item in selected:
            if item.instance in RESERVED_INSTANCES:
                raise ConfigError(f"no plugin instance may be called {item.instance!r}")
        for name in settings.keys() - known.keys() - {item.instance for item in selected}:
            logger.warning("[plugin.%s] in the configuration is for no plugin that is here", name)
        await self.plugins.serve_all(selected, known)

    def routes(self) -> list[BaseRoute]:
        """Return every plugin's routes under its name, and what describes all at ``/plugins``."""
        mounts: list[BaseRoute] = [
            Mount(f"/{served.instance}", Router(served.routes, redirect_slashes=False))
            for served in self.plugins.served.values()
        ]
        return [Route("/plugins", self._describe, methods=["GET"]), *mounts]

    def site(self) -> Site:
        """Return the application that serves `routes`."""
        return Site(_ByName(self.routes(), redirect_slashes=False), self.absent)

    def absent(self, path: str) -> str:
        """Say which of endpoint, plugin and route of a path is not here, and where to look."""
        instance, _, route = path.lstrip("/").partition("/")
        place = f"/{self.name}/plugins"
        if not instance:
            return f"name a plugin of endpoint {self.name}: GET {place} lists them"
        if instance not in self.plugins.served:
            return (
                f"endpoint {self.name} serves no plugin {instance!r}: "
                f"GET {place}, or orbit plugins {self.name}, tells which it does, and why no others"
            )
        return (
            f"plugin {instance} of endpoint {self.name} serves nothing at /{route}: "
            f"GET {place} lists its routes"
        )

    def short_descriptions(self) -> dict[str, PluginInfo]:
        """Return what the topology says of each plugin."""
        return {
            served.instance: PluginInfo(
                served.type, f"/{self.name}/{served.instance}", served.version
            )
            for served in self.plugins.served.values()
        }

    def description(self) -> HostDescription:
        """Return everything that there is to say of the plugins, and why some are absent."""
        plugins = {name: self._describe_one(served) for name, served in self.plugins.served.items()}
        return HostDescription(plugins, list(self.plugins.statuses))

    def publish(self, notification: Notification) -> None:
        """Stamp a notification of the host itself and hand it to every plugin."""
        self._notifier.publish(notification)

    async def _stop(self) -> None:
        """Have the plugins let go, last first; one that fails or dawdles does not keep the rest."""
        for name, function in reversed(self._stops):
            with anyio.move_on_after(STOP_TIMEOUT, shield=True) as scope:
                await self._guarded(name, function)
            if scope.cancelled_caught:
                logger.error("plugin %s did not let go within %.0f s", name, STOP_TIMEOUT)

    async def _describe(self, request: Request) -> Response:
        """Describe the plugins served here."""
        return Reply(self.description())

    def _describe_one(self, served: Served) -> PluginDescription:
        return PluginDescription(
            type=served.type,
            namespace=f"/{self.name}/{served.instance}",
            version=served.version,
            ui_config=served.ui,
            routes=[describe_route(route) for route in served.routes if isinstance(route, Route)],
        )

    async def _context_for(self, instance: str) -> PluginContext:
        directory = self.store.path.parent / "plugins" / instance
        await anyio.to_thread.run_sync(_make_private, directory)
        return PluginContext(
            host=self.host,
            endpoint=self.name,
            instance=instance,
            documents=self.store.space(f"plugin/{instance}"),
            directory=directory,
            notifier=self._notifier,
            background=partial(self._start_soon, instance),
            on_stop=lambda function: self._stops.append((instance, function)),
            find_hub=self._hub,
            bridge_url=self._bridge.url,
            bridge_cert=self._bridge.cert,
            raw_settings=self._settings.get(instance, {}),
        )

    def _start_soon(
        self, instance: str, function: Callable[..., Awaitable[None]], *args: Any
    ) -> None:
        assert self._group is not None, "a plugin is loaded only while its host is running"
        self._group.start_soon(self._guarded, instance, function, *args)

    async def _guarded(
        self, name: str, function: Callable[..., Awaitable[None]], *args: Any
    ) -> None:
        with outlive(logger, "plugin %s failed in the background", name):
            await function(*args)


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


@asynccontextmanager
async def open_host(name: str, host: HostInfo, state_dir: Path) -> AsyncIterator[PluginHost]:
    """Open a host with its state, which outlives what the host runs.

    Plugins see an absolute directory: what they start works in another one.
    """
    directory = state_dir.absolute()  # noqa: ASYNC240  # it asks for the working directory alone
    async with open_store(directory) as store, open_hooks() as hooks:
        yield PluginHost(name, host, store, hooks)
