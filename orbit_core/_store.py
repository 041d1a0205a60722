"""Keep an endpoint's or a bridge's state on disk: one SQLite file, one lock, group commits.

Every write is on disk before its call returns. Writes that arrive while one commit runs share the
next one, so that a hundred concurrent submits cost a few commits. No write-ahead log: the file may
sit on NFS, where SQLite's documentation forbids it (https://sqlite.org/wal.html).
"""

import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import attrs

from ._lock import DirectoryLock
from ._tasks import open_tasks
from .errors import StateUnavailable

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
        if self._is_closed:
            raise StateUnavailable(f"the state in {self.path} is closed: its host has stopped")
        work = _Work(operation)
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
        """Commit what is pending, batch by batch, until `close`; then close ``connection``.

        Cancellation does not end it: what stops because of the same cancellation still writes.
        """
        with anyio.CancelScope(shield=True):
            while self._pending or not self._is_closed:
                await self._wake.wait()
                self._wake = anyio.Event()
                batch, self._pending = self._pending, []
                await anyio.to_thread.run_sync(_commit, connection, batch, limiter=self._thread)
                for work in batch:
                    work.done.set()
            await anyio.to_thread.run_sync(connection.close)

    def close(self) -> None:
        """Take no further operations; those that wait are still carried out."""
        self._is_closed = True
        self._wake.set()

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
            try:
                yield store
            finally:
                store.close()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lock.release)


def _hold(directory: Path) -> DirectoryLock:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DirectoryLock(directory / "lock")
        lock.acquire()
    except OSError as error:
        raise StateUnavailable(
            f"the state directory {directory} cannot be used: {error}"
        ) from error
    return lock
