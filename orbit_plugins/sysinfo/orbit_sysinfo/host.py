"""Read the machine itself: system, processors, memory and network; every call may block."""

import getpass
import math
import os
import platform
import socket
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import psutil

from .models import Cpu, Interface, Memory, System

LOOK_INTERVAL = 0.1
"""Seconds below which a share of processor time says too little to be measured anew."""

_MODEL_KEYS = ("model name", "cpu model", "cpu", "hardware")
_VENDOR_KEYS = ("vendor_id", "vendor")


def parse_cpuinfo(text: str) -> tuple[str, str]:
    """Return the processor's name and vendor in ``/proc/cpuinfo``, each empty where it says none.

    The keys differ by architecture.
    """
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and value.strip():
            fields.setdefault(key.strip().lower(), value.strip())
    model = next((fields[key] for key in _MODEL_KEYS if key in fields), "")
    return model, next((fields[key] for key in _VENDOR_KEYS if key in fields), "")


@attrs.frozen
class Hardware:
    """Keep what does not change while the host is up."""

    cpu_model: str
    cpu_vendor: str
    cores_physical: int | None
    cores_logical: int | None

    @classmethod
    def detect(cls, cpuinfo: Path = Path("/proc/cpuinfo")) -> "Hardware":
        """Look once."""
        try:
            model, vendor = parse_cpuinfo(cpuinfo.read_text(errors="replace"))
        except OSError:
            model = vendor = ""
        processor = platform.processor()  # empty on Debian
        name = model or processor or platform.machine()
        cores = psutil.cpu_count(logical=False)
        return cls(name, processor or vendor, cores, psutil.cpu_count())


def cpu_seconds() -> tuple[float, float]:
    """Return the busy and all seconds; guests' time is part of their host's user time."""
    times = psutil.cpu_times()._asdict()
    total = sum(times.values()) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)
    return total - times["idle"] - times.get("iowait", 0.0), total


class CpuMeter:
    """Measure the share of processor time in use since the last look.

    psutil's own measure is kept per thread, and worker threads change from call to call.
    """

    def __init__(
        self,
        seconds: Callable[[], tuple[float, float]] = cpu_seconds,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to count from the host's start; the first look tells the share since then."""
        self._seconds = seconds
        self._clock = clock
        self._last = (0.0, 0.0)
        self._at = -math.inf
        self._percent = 0.0

    def read(self) -> float:
        """Return the percentage since the last look, or the last one if that was just now."""
        now = self._clock()
        if now - self._at >= LOOK_INTERVAL:
            busy, total = self._seconds()
            passed = total - self._last[1]
            if passed > 0:
                share = 100 * (busy - self._last[0]) / passed
                self._percent = round(min(max(share, 0.0), 100.0), 1)
            self._last, self._at = (busy, total), now
        return self._percent


def read_system() -> System:
    """Return the machine's name, kernel and uptime, and who runs this process."""
    uname = os.uname()
    uptime = round(time.time() - psutil.boot_time(), 1)
    kernel = f"{uname.sysname} {uname.release}"
    return System(socket.gethostname(), _user(), uptime, kernel, uname.machine)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # KeyError up to Python 3.12, OSError from 3.13 on
        return ""


def read_cpu(hardware: Hardware, percent: float) -> Cpu:
    """Return the processors with their use now."""
    return Cpu(
        hardware.cpu_model,
        hardware.cpu_vendor,
        hardware.cores_physical,
        hardware.cores_logical,
        percent,
        [round(load, 2) for load in os.getloadavg()],
        _frequency(),
    )


def _frequency() -> float | None:
    try:
        found = psutil.cpu_freq()
    except (OSError, NotImplementedError, ValueError):  # as sysfs allows
        return None
    return round(found.current, 1) if found and found.current else None


def read_memory() -> Memory:
    """Return the main memory's size and use."""
    found = psutil.virtual_memory()
    return Memory(found.total, found.available, found.percent, found.used)


def read_network() -> list[Interface]:
    """Return the interfaces that are up and have an IPv4 address, the loopback left out."""
    addresses, states = psutil.net_if_addrs(), psutil.net_if_stats()
    counters = psutil.net_io_counters(pernic=True)
    found = []
    for name, entries in addresses.items():
        ip = next((entry.address for entry in entries if entry.family == socket.AF_INET), None)
        state = states.get(name)
        if name == "lo" or ip is None or state is None or not state.isup:
            continue
        mac = next((entry.address for entry in entries if entry.family == psutil.AF_LINK), None)
        count = counters.get(name)
        received, sent = (count.bytes_recv, count.bytes_sent) if count else (0, 0)
        found.append(Interface(name, ip, mac, received, sent, state.speed))
    return found
