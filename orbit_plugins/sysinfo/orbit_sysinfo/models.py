"""Hold what is reported, as values; sizes are bytes except a GPU's, which are MiB."""

from typing import Any, Literal

import attrs

DiskKind = Literal["shared", "local ssd", "local hdd", "local unknown", "unknown"]


@attrs.frozen
class System:
    """Describe the machine; ``uptime`` is in seconds, ``user`` is empty if unknown."""

    hostname: str
    user: str
    uptime: float
    kernel: str
    arch: str


@attrs.frozen
class Cpu:
    """Describe the processors; ``load_avg`` is over 1, 5 and 15 minutes."""

    model: str
    vendor: str
    cores_physical: int | None
    cores_logical: int | None
    percent: float
    load_avg: list[float]
    freq_mhz: float | None


@attrs.frozen
class Memory:
    """Describe the main memory."""

    total: int
    available: int
    percent: float
    used: int


@attrs.frozen
class Disk:
    """Describe a mounted file system."""

    mount: str
    device: str
    fstype: str
    type: DiskKind
    total: int
    used: int
    percent: float


@attrs.frozen
class Interface:
    """Describe a network interface that is up."""

    interface: str
    ip: str
    mac: str | None
    rx_bytes: int
    tx_bytes: int
    speed_mbps: int


@attrs.frozen
class Gpu:
    """Describe a GPU by what does not change; ``id`` is unique on the host."""

    id: str
    index: int
    name: str
    driver_version: str
    uuid: str
    vendor: Literal["NVIDIA", "AMD", "Intel"]


@attrs.frozen
class GpuLoad:
    """Describe what a GPU does now: percentages and MiB; None where the tool does not say."""

    util_gpu: float | None = None
    util_mem: float | None = None
    mem_total: float | None = None
    mem_used: float | None = None
    mem_free: float | None = None

    def known(self) -> dict[str, float]:
        """Return what the tool said."""
        return {key: value for key, value in attrs.asdict(self).items() if value is not None}


@attrs.frozen
class Metrics:
    """Be one sample; ``gpus`` are JSON data: each `Gpu` with what is known of its `GpuLoad`."""

    system: System
    cpu: Cpu
    memory: Memory
    disks: list[Disk]
    network: list[Interface]
    gpus: list[dict[str, Any]]
