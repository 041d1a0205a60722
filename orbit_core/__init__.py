"""Reach HPC machines behind firewalls: a bridge, endpoints that dial out to it, and plugins.

A public name is imported when it is first asked for: who writes a plugin does not wait for the
HTTP client, and who uses the client does not wait for what serves plugins.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "AsyncBridgeClient",
    "AsyncEndpointClient",
    "BridgeClient",
    "Event",
    "HostInfo",
    "HostRole",
    "Notification",
    "OrbitError",
    "Plugin",
    "PluginClient",
    "PluginContext",
    "PluginSession",
    "Topology",
    "UIConfig",
    "hookimpl",
]

if TYPE_CHECKING:
    from ._blocking import BridgeClient
    from .client import AsyncBridgeClient, AsyncEndpointClient, Event
    from .context import PluginContext
    from .errors import OrbitError
    from .hookspecs import hookimpl
    from .models import HostInfo, HostRole, Notification, Topology, UIConfig
    from .plugin import Plugin
    from .plugin_client import PluginClient
    from .sessions import PluginSession
else:
    _NAMES = {
        "_blocking": ("BridgeClient",),
        "client": ("AsyncBridgeClient", "AsyncEndpointClient", "Event"),
        "context": ("PluginContext",),
        "errors": ("OrbitError",),
        "hookspecs": ("hookimpl",),
        "models": ("HostInfo", "HostRole", "Notification", "Topology", "UIConfig"),
        "plugin": ("Plugin",),
        "plugin_client": ("PluginClient",),
        "sessions": ("PluginSession",),
    }
    _MODULES = {name: module for module, names in _NAMES.items() for name in names}

    def __getattr__(name: str) -> Any:
        """Import a public name."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
