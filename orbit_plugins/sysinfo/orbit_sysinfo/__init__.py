"""Report a host's role, load, disks, network and GPUs through ORBIT."""

from .client import SysInfoClient
from .plugin import SysInfoPlugin
from .provider import SysInfoProvider
from .session import SysInfoSession

__all__ = ["SysInfoClient", "SysInfoPlugin", "SysInfoProvider", "SysInfoSession"]
