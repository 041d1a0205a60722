"""Keep an endpoint's or a bridge's state on disk: one SQLite file, one lock, group commits.

Every write is on disk before its call returns. Writes that arrive while one commit runs share the
next one, so that a hundred concurrent submits cost a few commits. No write-ahead log: the file may
sit on NFS, where SQLite's documentation forbids it (https://sqlite.org/wal.html).
"""

import json
import logging
import math
import os
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import attrs

from ._tasks import open_tasks
from .errors import StateInUse, StateUnavailable

logger = logging.getLogger(__name__)

LOCK_REFRESH = 10.0
"""Seconds between touches of the lock file; one untouched for six times that is stale."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    space TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (space, key)) WITHOUT ROWID
"""

Operation = Callable[[sqlite3.Connection], Any]


@attrs.define(eq=False)
class _Work:
    operation: Operation
    done: anyio.Event = attrs.field(factory=anyio.Event)
    result: Any = None
    error: Exception | None = None


class Store:
    """Run SQLite operations in order, off the event loop, many to a transaction."""

    def __init__(self, path: Path) -> None:
        """Name the file; `open_store` opens it."""
        self.path = path
        self._pending: list[_Work] = []
        self._wake = anyio.Event()
        self._is_closed = False
        # A thread of its own: others may all be waiting for a slow command.
        self._thread = anyio.CapacityLimiter(1)

    async def execute(self, operation: Operation) -> Any:
        """Run ``operation`` in the next transaction and return its result once that is on disk.

        Raises StateUnavailable if the disk is full, read-only or stale, and ValueError for a key
        that is no text in UTF-8.
        """
        work = _Work(operation)
        if self._is_closed:
            _refuse(work)
        else:
            self._pending.append(work)
            self._wake.set()
        await work.done.wait()
        if isinstance(work.error, sqlite3.Error):
            raise StateUnavailable(
                f"the state in {self.path} cannot be used ({work.error}): "
                "free space or make it writable"
            )
        if work.error is not None:
            raise work.error
        return work.result

    def space(self, name: str) -> "Space":
        """Return the documents that belong to ``name``."""
        return Space(self, name)

    async def run(self, connection: sqlite3.Connection) -> None:
        """Commit what is pending, batch by batch, until cancelled; then close ``connection``."""
        try:
            while True:
                await self._wake.wait()
                self._wake = anyio.Event()
                batch, self._pending = self._pending, []
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(
                        _commit, connection, batch, limiter=self._thread
                    )
                for work in batch:
                    work.done.set()
        finally:
            self._is_closed = True
            for work in self._pending:
                _refuse(work)
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(connection.close)

    def connect(self) -> sqlite3.Connection:
        """Open the file, which blocks. Raises StateUnavailable."""
        try:
            connection = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        try:
            self.path.chmod(0o600)
            connection.execute("PRAGMA journal_mode=TRUNCATE")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            connection.close()
            raise self._unusable(error) from error
        return connection

    def _unusable(self, error: Exception) -> StateUnavailable:
        return StateUnavailable(
            f"the state file {self.path} cannot be opened ({error}): "
            "move it away, or name another directory with --state-dir"
        )


def _refuse(work: _Work) -> None:
    work.error = StateUnavailable("the state is closed: its host has stopped")
    work.done.set()


def _commit(connection: sqlite3.Connection, batch: list[_Work]) -> None:
    """Run a batch in one transaction or, if that fails, each of it in its own: one may not fit."""
    if not _commit_together(connection, batch) and len(batch) > 1:
        for work in batch:
            work.error = None
            _commit_together(connection, [work])


def _commit_together(connection: sqlite3.Connection, batch: list[_Work]) -> bool:
    try:
        connection.execute("BEGIN")
        for work in batch:
            work.result = work.operation(connection)
        connection.execute("COMMIT")
    except (sqlite3.Error, ValueError) as error:
        for work in batch:
            work.error = error
        with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
            connection.execute("ROLLBACK")
        return False
    return True


@attrs.frozen
class Space:
    """Hold one owner's JSON documents, by key."""

    store: Store
    name: str

    def part(self, name: str) -> "Space":
        """Return a space of its own within this one."""
        return Space(self.store, f"{self.name}/{name}")

    async def put(self, key: str, value: Any) -> None:
        """Write one document; it is on disk when this returns."""
        await self.put_all({key: value})

    async def put_all(self, documents: dict[str, Any]) -> None:
        """Write several documents, all or none."""
        rows = [(self.name, key, json.dumps(value)) for key, value in documents.items()]
        await self.store.execute(
            lambda connection: connection.executemany(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", rows
            )
        )

    async def get(self, key: str) -> Any:
        """Return one document, or None."""
        rows = await self.store.execute(
            lambda connection: connection.execute(
                "SELECT value FROM documents WHERE space = ? AND key = ?", (self.name, key)
            ).fetchall()
        )
        return json.loads(rows[0][0]) if rows else None

    async def items(self) -> dict[str, Any]:
        """Return all documents, by key."""
        rows = await self.store.execute(
            lambda connection: connection.execute(
                "SELECT key, value FROM documents WHERE space = ?", (self.name,)
            ).fetchall()
        )
        return {key: json.loads(value) for key, value in rows}

    async def delete(self, *keys: str) -> None:
        """Remove documents; unknown keys are no error."""
        rows = [(self.name, key) for key in keys]
        await self.store.execute(
            lambda connection: connection.executemany(
                "DELETE FROM documents WHERE space = ? AND key = ?", rows
            )
        )


@asynccontextmanager
async def open_store(directory: Path) -> AsyncIterator[Store]:
    """Open the state in ``directory`` (made if missing, mode 0700) for this process alone.

    Raises StateInUse if another living process holds it, StateUnavailable if it cannot be used.
    """
    lock = await anyio.to_thread.run_sync(_hold, directory)
    try:
        store = Store(directory / "state.sqlite3")
        connection = await anyio.to_thread.run_sync(store.connect)
        async with open_tasks() as group:
            group.start_soon(store.run, connection)
            group.start_soon(lock.refresh)
            yield store
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lock.release)


def _hold(directory: Path) -> "_Lock":
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _Lock(directory / "lock")
        lock.acquire()
    except OSError as error:
        raise StateUnavailable(
            f"the state directory {directory} cannot be used: {error}"
        ) from error
    return lock


class _Lock:
    """Mark a directory as held, with a file instead of ``flock``, which NFS may not have."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
        }

    def acquire(self) -> None:
        """Create the file, taking over a stale one."""
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
        with os.fdopen(descriptor, "w") as file:
            json.dump(self._identity, file)
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
        """Return the seconds since the last touch by the file server's clock, not by this host's."""
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
