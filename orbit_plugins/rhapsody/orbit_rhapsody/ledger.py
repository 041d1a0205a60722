"""Write to one SQLite file: at once for all but a power cut, and for that when `sync` returns.

A commit goes to a write-ahead log without waiting for the disk, so that it outlives this process;
`sync` waits for the disk, once for all who wait meanwhile. The file has one user, who holds the
host's directory: in exclusive mode the log needs no shared memory, and so may sit on NFS
(https://sqlite.org/wal.html, "Use of WAL Without Shared-Memory").
"""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import anyio

from orbit_core.errors import StateUnavailable

from .worker import Worker, WorkerStopped

T = TypeVar("T")

Connection = sqlite3.Connection


class Ledger:
    """Run SQLite operations in order, off the event loop, each in a transaction of its own."""

    def __init__(self, path: Path) -> None:
        """Name the file; `open` opens it. Made on the event loop."""
        self._path = path
        self._connection: Connection
        self._log = -1
        self._committed = 0
        self._synced = 0
        self._syncing = anyio.Lock()
        self._writer = Worker("orbit ledger")
        self._syncer = Worker("orbit ledger sync")

    async def open(self, prepare: Callable[[Connection], T]) -> T:
        """Open or make the file with ``prepare``. Raises StateUnavailable."""
        try:
            return await self._in_thread(self._open, prepare)
        except BaseException:
            self._stop()
            raise

    async def execute(self, operation: Callable[[Connection], T]) -> T:
        """Return what ``operation`` does in a transaction, which outlives this process.

        Raises StateUnavailable if the disk is full, read-only or stale, and what it raises itself.
        """
        return await self._in_thread(self._commit, operation)

    async def execute_one(self, operation: Callable[[Connection], T]) -> T:
        """Do the same for an ``operation`` with one statement that writes, faster.

        The thread has to wait for the event loop after each statement.
        """
        return await self._in_thread(self._write, operation)

    async def sync(self) -> None:
        """Wait until everything so far is on the disk. Raises StateUnavailable."""
        wanted = self._committed
        async with self._syncing:
            if self._synced < wanted:
                reached = self._committed
                try:
                    await self._syncer.run(os.fsync, self._log)
                except (OSError, WorkerStopped) as error:
                    raise self._unusable(error) from error
                self._synced = reached

    async def close(self) -> None:
        """Take no further operations."""
        try:
            await self._in_thread(self._close)
        finally:
            self._stop()

    def _stop(self) -> None:
        self._writer.stop()
        self._syncer.stop()

    def _open(self, prepare: Callable[[Connection], T]) -> T:
        self._connection = sqlite3.connect(
            self._path, check_same_thread=False, isolation_level=None
        )
        self._path.chmod(0o600)
        for setting in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
            self._connection.execute(f"PRAGMA {setting}")
        found = self._commit(prepare)
        self._log = os.open(f"{self._path}-wal", os.O_RDONLY)
        folder = os.open(self._path.parent, os.O_RDONLY)
        os.fsync(folder)  # both files are named in it from now on
        os.close(folder)
        return found

    def _commit(self, operation: Callable[[Connection], T]) -> T:
        self._connection.execute("BEGIN")
        try:
            found = operation(self._connection)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._committed += 1
        return found

    def _write(self, operation: Callable[[Connection], T]) -> T:
        found = operation(self._connection)
        self._committed += 1
        return found

    def _close(self) -> None:
        self._connection.close()
        os.close(self._log)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        try:
            return await self._writer.run(function, *arguments)
        except (sqlite3.Error, OSError, WorkerStopped) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> StateUnavailable:
        return StateUnavailable(
            f"the tasks in {self._path} cannot be kept ({error}): free space or make it writable"
        )
