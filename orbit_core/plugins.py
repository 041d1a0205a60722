"""Find the installed plugins, decide which serve this host, and call their hooks in isolation.

Three gates, in order: the selection, the entry point loads, ``is_enabled``. What is not selected is
never imported. Each gate leaves a `PluginStatus` with its reason.
"""

import fnmatch
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any, AsyncIterator, cast

import anyio
import attrs
import pluggy
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.routing import BaseRoute

from .context import PluginContext
from .errors import ConfigError, OrbitError
from .hookspecs import PROJECT, HookSpecs
from .models import HostInfo, HostRole, Notification, PluginStatus, Topology, check_name

logger = logging.getLogger(__name__)

ENTRY_POINTS = "orbit.plugins"

ROLE_DEFAULTS: Mapping[HostRole, tuple[str, ...]] = {
    HostRole.BRIDGE: ("sysinfo",),
    HostRole.LOGIN: ("psij", "staging", "sysinfo", "queue_info", "xgfabric"),
    HostRole.COMPUTE: ("rhapsody", "staging", "sysinfo", "queue_info"),
    HostRole.STANDALONE: ("psij", "staging", "sysinfo", "rhapsody", "queue_info", "xgfabric"),
}
"""What ``default`` means on each host; names that are not installed are skipped."""

HOOKS = ("is_enabled", "register_routes", "on_topology_change", "notify")

MAILBOX = 10_000
"""How many unfinished asynchronous hook calls one plugin may have before further ones are dropped."""


@attrs.frozen
class Selected:
    """Name one plugin instance to serve: ``instance`` of the entry point ``type``."""

    instance: str
    entry: EntryPoint


def installed(group: str = ENTRY_POINTS) -> dict[str, EntryPoint]:
    """Return the entry points of ``group`` by name; nothing is imported."""
    return {entry.name: entry for entry in entry_points(group=group)}


def select(
    tokens: Iterable[str], role: HostRole, available: Mapping[str, EntryPoint]
) -> list[Selected]:
    """Resolve selector tokens, in order and without repeats.

    A token is a name, a glob (``*``, ``?``), ``default`` (the host role's set), ``all``, an
    unambiguous prefix, or ``INSTANCE=NAME`` for a plugin under another name.

    Raises ConfigError for a token that matches nothing, naming what is available.
    """
    chosen: dict[str, Selected] = {}
    for token in tokens:
        alias, _, pattern = token.rpartition("=")
        names = _matching(pattern.strip(), role, available)
        if alias:
            check_name(alias.strip(), "plugin instance")
            if len(names) != 1:
                raise ConfigError(
                    f"plugin selector {token!r} must name one plugin, not {len(names)}"
                )
        for name in names:
            instance = alias.strip() or name
            chosen.setdefault(instance, Selected(instance, available[name]))
    return list(chosen.values())


def _matching(pattern: str, role: HostRole, available: Mapping[str, EntryPoint]) -> list[str]:
    if pattern == "default":
        return [name for name in ROLE_DEFAULTS[role] if name in available]
    if pattern == "all":
        return sorted(available)
    if pattern in available:
        return [pattern]
    if any(wildcard in pattern for wildcard in "*?"):
        found = sorted(fnmatch.filter(available, pattern))
    else:
        found = sorted(name for name in available if pattern and name.startswith(pattern))
        if len(found) > 1:
            raise ConfigError(f"plugin selector {pattern!r} is ambiguous: {', '.join(found)}")
    if not found:
        raise ConfigError(
            f"plugin selector {pattern!r} matches nothing; available: {', '.join(sorted(available)) or 'none'}"
        )
    return found


class _Mailbox:
    """Await one plugin's asynchronous hook calls in order, away from everybody else's."""

    def __init__(self, plugin: str, group: TaskGroup) -> None:
        self._plugin = plugin
        self._send: MemoryObjectSendStream[Awaitable[None]]
        receive: MemoryObjectReceiveStream[Awaitable[None]]
        self._send, receive = anyio.create_memory_object_stream(MAILBOX)
        group.start_soon(self._work, receive)

    def call(self, hook: str, caller: pluggy.HookCaller, arguments: dict[str, Any]) -> None:
        try:
            results = caller(**arguments)
        except Exception:  # a hook may fail in any way
            logger.exception("plugin %s failed in %s", self._plugin, hook)
            return
        for result in results:
            if inspect.isawaitable(result):
                self._post(hook, result)

    def _post(self, hook: str, result: Awaitable[None]) -> None:
        try:
            self._send.send_nowait(result)
        except anyio.WouldBlock:
            logger.error("plugin %s is too slow: a call of %s was dropped", self._plugin, hook)
            if inspect.iscoroutine(result):
                result.close()

    async def _work(self, receive: MemoryObjectReceiveStream[Awaitable[None]]) -> None:
        async with receive:
            async for result in receive:
                try:
                    await result
                except Exception:  # a hook may fail in any way
                    logger.exception("plugin %s failed in a hook", self._plugin)


class Hooks:
    """Call the hooks of the registered plugins, one by one, so that none can harm another."""

    def __init__(self, group: TaskGroup) -> None:
        """Take the task group that owns the plugins' asynchronous calls."""
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(HookSpecs)
        self._group = group
        self._mailboxes: dict[str, _Mailbox] = {}
        self._callers: dict[str, dict[str, pluggy.HookCaller]] = {name: {} for name in HOOKS}

    def add(self, name: str, plugin: object) -> None:
        """Register a plugin object. Raises ConfigError for a hook that does not exist."""
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            self.remove(plugin)
            raise ConfigError(f"its hooks do not fit: {error}") from None
        self._mailboxes[name] = _Mailbox(name, self._group)
        self._rebuild()

    def remove(self, plugin: object) -> None:
        """Forget a plugin object, registered or not."""
        if self._manager.is_registered(plugin):
            self._mailboxes.pop(self._manager.get_name(plugin) or "", None)
            self._manager.unregister(plugin)
            self._rebuild()

    def _rebuild(self) -> None:
        """Make one caller per plugin and hook: pluggy's own call would stop at the first failure."""
        plugins = self._manager.list_name_plugin()
        self._callers = {name: {} for name in HOOKS}
        for name, plugin in plugins:
            others = [other for _, other in plugins if other is not plugin]
            for caller in self._manager.get_hookcallers(plugin) or ():
                self._callers[caller.name][name] = self._manager.subset_hook_caller(
                    caller.name, others
                )

    async def is_enabled(self, plugin: object, name: str, host: HostInfo) -> bool:
        """Ask one plugin, not yet added, whether it serves this host; what it raises passes through."""
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(HookSpecs)
        manager.register(plugin, name)
        for answer in manager.hook.is_enabled(host=host):
            decided = await answer if inspect.isawaitable(answer) else answer
            if decided is False:
                return False
        return True

    async def register_routes(self, name: str, context: PluginContext) -> list[BaseRoute]:
        """Ask one plugin for its routes; what it raises passes through to `serve_all`."""
        caller = self._callers["register_routes"].get(name)
        routes: list[BaseRoute] = []
        for answer in caller(context=context) if caller else ():
            routes.extend(_checked(await answer if inspect.isawaitable(answer) else answer))
        return routes

    def topology_changed(self, topology: Topology) -> None:
        """Tell every plugin who is connected now."""
        self._call_each("on_topology_change", {"topology": topology})

    def notify(self, notification: Notification) -> None:
        """Hand a notification to every plugin, in order."""
        self._call_each("notify", {"notification": notification})

    def _call_each(self, hook: str, arguments: dict[str, Any]) -> None:
        for name, caller in list(self._callers[hook].items()):
            self._mailboxes[name].call(hook, caller, arguments)


def _checked(routes: object) -> list[BaseRoute]:
    """Return what ``register_routes`` gave if it is routes, else raise TypeError."""
    found = list(cast(Iterable[Any], routes or ()))
    for route in found:
        if not isinstance(route, BaseRoute):
            raise TypeError(f"register_routes returned {route!r}, which is no Starlette route")
    return found


PluginFactory = Callable[[PluginContext, str], object]
ContextFactory = Callable[[str], PluginContext]


@attrs.frozen
class Served:
    """Hold one plugin that is being served."""

    instance: str
    type: str
    version: str
    plugin: object
    routes: list[BaseRoute]


class Plugins:
    """Load, gate and keep the plugins of one host."""

    def __init__(self, hooks: Hooks, host: HostInfo, context_for: ContextFactory) -> None:
        """Take the hooks to register with, the host to ask about, and the maker of contexts."""
        self._hooks = hooks
        self._host = host
        self._context_for = context_for
        self.served: dict[str, Served] = {}
        self.statuses: list[PluginStatus] = []

    async def serve_all(
        self, selected: Iterable[Selected], available: Mapping[str, EntryPoint]
    ) -> None:
        """Take every selected plugin through the gates; none can stop another."""
        chosen = list(selected)
        for item in chosen:
            self.statuses.append(await self._through_gates(item))
        types = {item.entry.name for item in chosen}
        for name in sorted(set(available) - types):
            self.statuses.append(PluginStatus(name, name, "not selected", "not in the selection"))

    async def _through_gates(self, item: Selected) -> PluginStatus:
        gate = "the entry point does not load"
        try:
            candidate = item.entry.load()
            gate = "is_enabled failed"
            if not await self._hooks.is_enabled(candidate, item.instance, self._host):
                return PluginStatus(
                    item.instance,
                    item.entry.name,
                    "disabled",
                    f"declines this host ({self._host.role})",
                )
            gate = "register_routes failed"
            served = await self._serve(item, candidate)
        except Exception as error:  # loading a plugin may fail in any way
            reason = (
                error.detail
                if isinstance(error, OrbitError)
                else f"{type(error).__name__}: {error}"
            )
            logger.exception("plugin %s is not served: %s", item.instance, gate)
            return PluginStatus(item.instance, item.entry.name, "failed", f"{gate}: {reason}")
        return PluginStatus(item.instance, item.entry.name, "served", "", served.version)

    async def _serve(self, item: Selected, candidate: object) -> Served:
        context = self._context_for(item.instance)
        factory = cast(PluginFactory, candidate)
        plugin = factory(context, item.instance) if inspect.isclass(candidate) else candidate
        self._hooks.add(item.instance, plugin)
        try:
            routes = await self._hooks.register_routes(item.instance, context)
        except BaseException:
            self._hooks.remove(plugin)
            raise
        version = str(
            getattr(plugin, "version", "") or (item.entry.dist.version if item.entry.dist else "")
        )
        served = Served(item.instance, item.entry.name, version, plugin, routes)
        self.served[item.instance] = served
        return served


@asynccontextmanager
async def open_hooks() -> AsyncIterator[Hooks]:
    """Open the hooks' task group; leaving it ends what the plugins' asynchronous calls still do."""
    async with anyio.create_task_group() as group:
        yield Hooks(group)
        group.cancel_scope.cancel()
