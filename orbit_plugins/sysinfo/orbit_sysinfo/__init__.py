"""Report a host's role, load, disks, network and GPUs through ORBIT.

This is what a user imports: the client, and the values that a sample is made of.
"""

from .client import SysInfoClient
from .models import Cpu, Disk, Gpu, GpuLoad, Interface, Memory, Metrics, System

__all__ = [
    "Cpu",
    "Disk",
    "Gpu",
    "GpuLoad",
    "Interface",
    "Memory",
    "Metrics",
    "SysInfoClient",
    "System",
]
