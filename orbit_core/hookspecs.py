"""Define the contract between ORBIT and its plugins: four hooks, called plugin by plugin.

An implementation is a function, a method or a class method marked with `hookimpl`. It may be
synchronous or asynchronous. What it raises is logged with the plugin's name and harms nobody else.
"""

from collections.abc import Awaitable, Iterable

import pluggy
from starlette.routing import BaseRoute

from .context import PluginContext
from .models import HostInfo, Notification, Topology

PROJECT = "orbit"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class HookSpecs:
    """Hold the four hooks."""

    @hookspec
    def is_enabled(self, host: HostInfo) -> bool | None:
        """Decide whether the plugin serves this host; asked once, before any other hook.

        False declines: no route is registered and no other hook is called. None means yes.
        """

    @hookspec
    def register_routes(self, context: PluginContext) -> Iterable[BaseRoute] | None:
        """Return the Starlette routes to mount at ``/{instance}``; called once, at start."""

    @hookspec
    def on_topology_change(self, topology: Topology) -> Awaitable[None] | None:
        """Hear which endpoints are connected; called at start and after every change."""

    @hookspec
    def notify(self, notification: Notification) -> Awaitable[None] | None:
        """Hear a notification: on an endpoint those published there, on the bridge all that arrive.

        Calls for one plugin come in order; a slow asynchronous implementation delays only itself.
        """
