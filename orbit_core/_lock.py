"""Hold a state directory for one process, with a lock file: NFS may not have ``flock``."""

import json
import logging
import math
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from .errors import StateInUse

logger = logging.getLogger(__name__)

LOCK_REFRESH = 10.0
"""Seconds between touches of the lock file; one untouched for six times that is stale."""


class DirectoryLock:
    """Mark a directory as held by this process."""

    def __init__(self, path: Path) -> None:
        """Name the lock file of the directory."""
        self.path = path
        self._identity = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
        }

    def acquire(self) -> None:
        """Create the file, taking over a stale one. Raises StateInUse, OSError."""
        if self._create():
            return
        holder = self._read(self.path)
        if self._is_alive(holder):
            raise StateInUse(
                f"{self.path.parent} is in use by process {holder.get('pid')} on host "
                f"{holder.get('host')}: stop it, or name another directory with --state-dir"
            )
        self._clear(holder)
        if not self._create():
            raise self._taken()

    async def refresh(self) -> None:
        """Touch the file until cancelled, for processes on other hosts.

        Raises StateInUse if another process took the directory, as it may from one that slept.
        """
        while True:
            await anyio.sleep(LOCK_REFRESH)
            await anyio.to_thread.run_sync(self.touch)

    def touch(self) -> None:
        """Touch the file once; a passing fault of the file system is only logged."""
        try:
            if not self._create() and json.loads(self.path.read_text()) != self._identity:
                raise self._taken()
            os.utime(self.path)
        except (OSError, ValueError) as error:
            logger.warning("the lock %s cannot be refreshed: %s", self.path, error)

    def release(self) -> None:
        """Remove the file if it is still ours."""
        if self._read(self.path) == self._identity:
            self.path.unlink(missing_ok=True)

    def _taken(self) -> StateInUse:
        return StateInUse(f"{self.path.parent} was taken by another process just now")

    def _create(self) -> bool:
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            return False
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(self._identity, file)
        except OSError:  # a full disk must not leave a lock that names nobody
            self.path.unlink()
            raise
        return True

    def _clear(self, stale: dict[str, Any]) -> None:
        """Remove a stale lock, unless another process has replaced it since it was read."""
        aside = self.path.with_name(f"lock.{os.getpid()}")
        with suppress(FileNotFoundError):
            self.path.rename(aside)
            if self._read(aside) != stale:
                aside.rename(self.path)
                raise self._taken()
            aside.unlink()

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            holder = json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        return holder if isinstance(holder, dict) else {}

    def _is_alive(self, holder: dict[str, Any]) -> bool:
        if holder.get("host") != self._identity["host"]:
            return self._age() < 6 * LOCK_REFRESH
        return bool(_started(holder.get("pid")) == holder.get("started"))

    def _age(self) -> float:
        """Return the seconds since the last touch by the file server's clock, not by ours."""
        probe = self.path.with_name(f"lock.{os.getpid()}")
        probe.touch()
        try:
            return probe.stat().st_mtime - self.path.stat().st_mtime
        except FileNotFoundError:
            return math.inf
        finally:
            probe.unlink()


def _started(pid: object) -> str:
    """Return what tells a living process from every other, or an empty string.

    It is the id of the host's boot and the process's start in clock ticks since then (proc(5)):
    a start in seconds since the epoch would change whenever the clock is set.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "" if fields[0] in (b"Z", b"X") else f"{boot} {fields[19].decode()}"
