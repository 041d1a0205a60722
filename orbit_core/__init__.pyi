from ._blocking import BridgeClient
from .client import AsyncBridgeClient, AsyncEndpointClient, Event
from .context import PluginContext
from .errors import OrbitError
from .hookspecs import hookimpl
from .models import HostInfo, HostRole, Notification, Topology, UIConfig
from .plugin import Plugin
from .plugin_client import PluginClient
from .sessions import PluginSession

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
