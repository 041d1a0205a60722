"""Find the installed plugins, decide which serve this host, and call their hooks in isolation.

Three gates, in order: the selection, the entry point loads, ``is_enabled``. What is not selected is
never imported. Each gate leaves a `PluginStatus` with its reason.
"""

import fnmatch
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
import attrs
from starlette.routing import BaseRoute

from ._codec import to_data
from ._hooks import Hooks
from .context import PluginContext
from .errors import ConfigError, OrbitError
from .models import HostInfo, HostRole, PluginStatus, UIConfig, check_name

T = TypeVar("T")

logger = logging.getLogger(__name__)

ENTRY_POINTS = "orbit.plugins"

ROLE_DEFAULTS: Mapping[HostRole, tuple[str, ...]] = {
    HostRole.BRIDGE: ("sysinfo",),
    HostRole.LOGIN: ("psij", "staging", "sysinfo", "queue_info", "xgfabric"),
    HostRole.COMPUTE: ("rhapsody", "staging", "sysinfo", "queue_info"),
    HostRole.STANDALONE: ("psij", "staging", "sysinfo", "rhapsody", "queue_info", "xgfabric"),
}
"""Which of ORBIT's own plugins ``default`` means on each host, as far as they are installed.

On an endpoint it means other people's as well: who installed them there wants them.
"""

_OWN = frozenset(name for names in ROLE_DEFAULTS.values() for name in names)

START_TIMEOUT = 60.0
"""Seconds that a plugin has to decide whether it serves, and again to register its routes."""


@attrs.frozen
class Selected:
    """Name one plugin instance to serve: ``instance`` of the entry point ``type``."""

    instance: str
    entry: EntryPoint


def installed(group: str = ENTRY_POINTS) -> dict[str, EntryPoint]:
    """Return the entry points of ``group`` by name; nothing is imported.

    Where two distributions offer the same name, the first found serves and a warning tells.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        kept = found.setdefault(entry.name, entry)
        if kept.value != entry.value:
            logger.warning("%s is offered twice: %s hides %s", entry.name, kept.value, entry.value)
    return found


def select(
    tokens: Iterable[str], role: HostRole, available: Mapping[str, EntryPoint]
) -> list[Selected]:
    """Resolve selector tokens, in order and without repeats.

    A token is a name, a glob (``*``, ``?``), ``default`` (the host role's set), ``all``, an
    unambiguous prefix, or ``INSTANCE=NAME`` for a plugin under another name.

    Raises ConfigError for a token that matches nothing, naming what is available, or for one
    instance that would be two plugins; InvalidName for a bad instance name.
    """
    chosen: dict[str, Selected] = {}
    for token in tokens:
        for instance, name in _named(token, role, available):
            selected = chosen.setdefault(instance, Selected(instance, available[name]))
            if selected.entry is not available[name]:
                raise ConfigError(
                    f"plugin instance {instance!r} cannot be both {selected.entry.name} and {name}"
                )
    return list(chosen.values())


def _named(
    token: str, role: HostRole, available: Mapping[str, EntryPoint]
) -> Iterable[tuple[str, str]]:
    """Yield the instances that one token asks for, each with the plugin it is of."""
    alias, equals, pattern = (part.strip() for part in token.rpartition("="))
    names = _matching(pattern, role, available)
    if not equals:
        return [(name, name) for name in names]
    if len(names) != 1:
        raise ConfigError(f"plugin selector {token!r} must name one plugin, not {len(names)}")
    return [(check_name(alias, "plugin instance"), names[0])]


def _matching(pattern: str, role: HostRole, available: Mapping[str, EntryPoint]) -> list[str]:
    if pattern == "default":
        others = [] if role is HostRole.BRIDGE else sorted(available.keys() - _OWN)
        return [name for name in ROLE_DEFAULTS[role] if name in available] + others
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
            f"plugin selector {pattern!r} matches nothing; "
            f"available: {', '.join(sorted(available)) or 'none'}"
        )
    return found


PluginFactory = Callable[[PluginContext, str], object]
ContextFactory = Callable[[str], Awaitable[PluginContext]]


@attrs.frozen
class Served:
    """Hold one plugin that is being served; ``ui`` describes its portal page, as JSON data."""

    instance: str
    type: str
    version: str
    plugin: object
    routes: list[BaseRoute]
    ui: dict[str, Any]


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
        status = partial(PluginStatus, item.instance, item.entry.name)
        gate = "its name cannot be served"
        try:
            check_name(item.instance, "plugin instance")
            gate = "the entry point does not load"
            candidate = item.entry.load()
            gate = "is_enabled failed"
            if not await _in_time(self._hooks.is_enabled(candidate, item.instance, self._host)):
                return status("disabled", f"declines this host ({self._host.role})")
            gate = "register_routes failed"
            served = await _in_time(self._serve(item, candidate))
        except OrbitError as error:  # one that says all, such as a wrong setting
            logger.error("plugin %s is not served: %s: %s", item.instance, gate, error.detail)
            return status("failed", f"{gate}: {error.detail}")
        except (Exception, SystemExit) as error:  # loading a plugin may fail in any way
            logger.exception("plugin %s is not served: %s", item.instance, gate)
            return status("failed", f"{gate}: {type(error).__name__}: {error}")
        self.served[item.instance] = served
        return status("served", "", served.version)

    async def _serve(self, item: Selected, candidate: object) -> Served:
        context = await self._context_for(item.instance)
        factory = cast(PluginFactory, candidate)
        plugin = factory(context, item.instance) if inspect.isclass(candidate) else candidate
        self._hooks.add(item.instance, plugin)
        try:
            routes = await self._hooks.register_routes(item.instance, context)
            ui = _page(plugin, item.entry.name)
        except BaseException:  # out of time, too: what is not served hears no hooks
            self._hooks.remove(plugin)
            raise
        version = await anyio.to_thread.run_sync(_version, plugin, item.entry)
        return Served(item.instance, item.entry.name, version, plugin, routes, ui)


async def _in_time(step: Awaitable[T]) -> T:
    with anyio.move_on_after(START_TIMEOUT):
        return await step
    raise ConfigError(f"it took longer than {START_TIMEOUT:g} s")


def _page(plugin: object, type_name: str) -> dict[str, Any]:
    """Return what a plugin says of its portal page. Raises TypeError, ValueError for no JSON."""
    page = to_data(getattr(plugin, "ui_config", None) or UIConfig(title=type_name))
    if not isinstance(page, dict):
        raise TypeError(f"ui_config is a {type(page).__name__}, not a UIConfig or a dict")
    json.dumps(page, allow_nan=False)
    return page


def _version(plugin: object, entry: EntryPoint) -> str:
    version = getattr(plugin, "version", None)
    if isinstance(version, str) and version:
        return version
    return entry.dist.version if entry.dist else ""
