"""Offer `SysInfoProvider`, the one source of samples that all sessions share."""

import time
from collections.abc import AsyncGenerator

import anyio
import anyio.to_thread

from .disks import Disks
from .gpus import Gpus
from .host import (
    LOOK_INTERVAL,
    CpuMeter,
    Hardware,
    read_cpu,
    read_memory,
    read_network,
    read_system,
)
from .models import Cpu, Interface, Memory, Metrics, System
from .probe import Probe

INTERVAL = 1.0
"""Seconds between two samples of a stream."""

FRESH = 0.5
"""Seconds for which a sample is handed to everybody who asks."""


class SysInfoProvider:
    """Sample this host; `detect` runs once, before the first sample."""

    def __init__(self, disks: Disks | None = None, gpus: Gpus | None = None) -> None:
        """Take other disks and GPUs than this host's, if any."""
        probe = Probe()
        self._disks = disks or Disks(probe)
        self._gpus = gpus or Gpus(probe)
        self._meter = CpuMeter()
        self._hardware: Hardware | None = None
        self._lock = anyio.Lock()
        self._last: tuple[float, Metrics] | None = None

    async def detect(self) -> None:
        """Find the hardware; samples wait for it, at most as long as tools may take."""
        async with self._lock:
            await self._detect()

    async def metrics(self) -> Metrics:
        """Return a sample that is at most `FRESH` seconds old; many who ask at once share one."""
        async with self._lock:
            hardware = self._hardware or await self._detect()
            if self._last is None or time.monotonic() - self._last[0] > FRESH:
                self._last = (time.monotonic(), await self._sample(hardware))
            return self._last[1]

    async def stream(self) -> AsyncGenerator[Metrics, None]:
        """Yield a sample at once and then one every `INTERVAL`, without end."""
        due = anyio.current_time()
        while True:
            yield await self.metrics()
            due = max(due + INTERVAL, anyio.current_time())
            await anyio.sleep_until(due)

    async def _detect(self) -> Hardware:
        if self._hardware is None:
            hardware = await anyio.to_thread.run_sync(Hardware.detect)
            await anyio.to_thread.run_sync(self._meter.read)
            await self._gpus.detect()
            await anyio.sleep(
                LOOK_INTERVAL
            )  # between the first look at the processors and the next
            self._hardware = hardware
        return self._hardware

    async def _sample(self, hardware: Hardware) -> Metrics:
        system, cpu, memory, network = await anyio.to_thread.run_sync(self._read_host, hardware)
        disks = await self._disks.read()
        return Metrics(system, cpu, memory, disks, network, await self._gpus.read())

    def _read_host(self, hardware: Hardware) -> tuple[System, Cpu, Memory, list[Interface]]:
        cpu = read_cpu(hardware, self._meter.read())
        return read_system(), cpu, read_memory(), read_network()
