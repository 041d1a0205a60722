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
