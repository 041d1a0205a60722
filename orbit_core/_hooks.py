"""Call the hooks of plugins, one by one, so that none can harm or delay another."""

import inspect
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pluggy
from anyio.abc import TaskGroup
from starlette.routing import BaseRoute

from ._guard import outlive
from ._tasks import open_tasks
from .context import PluginContext
from .errors import ConfigError
from .hookspecs import PROJECT, HookSpecs
from .models import HostInfo, Notification, Topology

logger = logging.getLogger(__name__)

HOOKS = ("is_enabled", "register_routes", "on_topology_change", "notify")

MAILBOX = 10_000
"""Unfinished asynchronous hook calls that one plugin may have; further ones are dropped."""


class _Mailbox:
    """Await one plugin's asynchronous hook calls in order, away from everybody else's."""

    def __init__(self, plugin: str) -> None:
        self._plugin = plugin
        self._waiting: deque[tuple[str, Awaitable[None]]] = deque()
        self._wake = anyio.Event()
        self._is_dropping = False
        self._is_closed = False

    def call(self, hook: str, caller: pluggy.HookCaller, arguments: dict[str, Any]) -> None:
        """Call a hook; what is awaitable of the answer is awaited later."""
        with outlive(logger, "plugin %s failed in %s", self._plugin, hook):
            for result in caller(**arguments):
                if inspect.isawaitable(result):
                    self._post(hook, result)

    def _post(self, hook: str, result: Awaitable[None]) -> None:
        if len(self._waiting) < MAILBOX:
            self._waiting.append((hook, result))
            self._wake.set()
            return
        _discard(result)
        if not self._is_dropping:
            self._is_dropping = True
            logger.error("plugin %s is too slow: calls of %s are dropped", self._plugin, hook)

    async def work(self) -> None:
        """Await what is posted until closed."""
        while not self._is_closed:
            await self._wake.wait()
            self._wake = anyio.Event()
            while self._waiting:
                await self._await(*self._waiting.popleft())
            self._is_dropping = False

    async def _await(self, hook: str, result: Awaitable[None]) -> None:
        with outlive(logger, "plugin %s failed in %s", self._plugin, hook):
            await result

    def close(self) -> None:
        """Drop what waits and end the work."""
        self._is_closed = True
        self._wake.set()
        while self._waiting:
            _discard(self._waiting.popleft()[1])


def _discard(result: Awaitable[None]) -> None:
    if inspect.iscoroutine(result):
        result.close()


class Hooks:
    """Call the hooks of the registered plugins, one by one, so that none can harm another."""

    def __init__(self, group: TaskGroup) -> None:
        """Take the task group that owns the plugins' asynchronous calls."""
        self._manager = _new_manager()
        self._group = group
        self._mailboxes: dict[str, _Mailbox] = {}
        self._callers: dict[str, dict[str, pluggy.HookCaller]] = {name: {} for name in HOOKS}

    def add(self, name: str, plugin: object) -> None:
        """Register a plugin object.

        Raises ConfigError for a hook that does not exist, for none at all, and for an object that
        is registered already.
        """
        _check_hashable(plugin)
        if self._manager.has_plugin(name):
            raise ConfigError(f"the name {name!r} is taken: choose another for this instance")
        if self._manager.is_registered(plugin):
            raise ConfigError("the same object is served already: only a class has instances")
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            self.remove(plugin)
            raise ConfigError(f"its hooks do not fit: {error}") from None
        if not self._manager.get_hookcallers(plugin):
            self.remove(plugin)
            raise ConfigError(f"it has none of the hooks {', '.join(HOOKS)}: mark them @hookimpl")
        self._mailboxes[name] = mailbox = _Mailbox(name)
        self._group.start_soon(mailbox.work)
        self._rebuild()

    def remove(self, plugin: object) -> None:
        """Forget a plugin object, registered or not."""
        name = self._manager.get_name(plugin)
        if name is not None:
            self._manager.unregister(plugin)
            if name in self._mailboxes:
                self._mailboxes.pop(name).close()
            self._rebuild()

    def close(self) -> None:
        """Call no hook any more and drop what waits."""
        self._callers = {name: {} for name in HOOKS}
        for mailbox in self._mailboxes.values():
            mailbox.close()

    def _rebuild(self) -> None:
        """Make one caller per plugin and hook: pluggy's own would stop at the first failure."""
        plugins = self._manager.list_name_plugin()
        self._callers = {name: {} for name in HOOKS}
        for name, plugin in plugins:
            others = [other for _, other in plugins if other is not plugin]
            for caller in self._manager.get_hookcallers(plugin) or ():
                if caller.name in self._callers:  # an optional hook may be of a newer ORBIT
                    self._callers[caller.name][name] = self._manager.subset_hook_caller(
                        caller.name, others
                    )

    async def is_enabled(self, plugin: object, name: str, host: HostInfo) -> bool:
        """Ask one plugin, not yet added, whether it serves this host; what it raises passes."""
        _check_hashable(plugin)
        manager = _new_manager()
        try:
            manager.register(plugin, name)
        except pluggy.PluginValidationError as error:
            raise ConfigError(f"its hooks do not fit: {error}") from None
        for answer in manager.hook.is_enabled(host=host):
            decided = await answer if inspect.isawaitable(answer) else answer
            if decided is False:
                return False
        return True

    async def register_routes(self, name: str, context: PluginContext) -> list[BaseRoute]:
        """Ask one plugin for its routes; what it raises passes."""
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


class _Manager(pluggy.PluginManager):
    """Look for hooks where they can be: pluggy looks at every attribute that Python gives, too."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        return None if name.startswith("__") else super().parse_hookimpl_opts(plugin, name)


def _new_manager() -> pluggy.PluginManager:
    manager = _Manager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    return manager


def _check_hashable(plugin: object) -> None:
    try:
        hash(plugin)
    except TypeError:
        raise ConfigError(
            f"a {type(plugin).__name__} is not hashable: define it with eq=False"
        ) from None


def _checked(answer: object) -> list[BaseRoute]:
    """Return what ``register_routes`` gave if it is routes. Raises TypeError."""
    if answer is None:
        return []
    if not isinstance(answer, Iterable):
        raise TypeError(f"register_routes returned {answer!r}, which is no list of routes")
    routes = list(answer)
    for route in routes:
        if not isinstance(route, BaseRoute):
            raise TypeError(f"register_routes returned {route!r}, which is no Starlette route")
    return routes


@asynccontextmanager
async def open_hooks() -> AsyncIterator[Hooks]:
    """Open the hooks' task group; leaving it ends what the plugins' asynchronous calls still do."""
    async with open_tasks() as group:
        hooks = Hooks(group)
        try:
            yield hooks
        finally:
            hooks.close()
