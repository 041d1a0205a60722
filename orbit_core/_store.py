"""Keep an endpoint's or a bridge's state on disk: one SQLite file, one lock, group commits.

Every write is on disk before its call returns. Writes that arrive while one commit runs share the
next one, so that a hundred concurrent submits cost a few commits. No write-ahead log: the file may
sit on NFS, where SQLite's documentation forbids it (https://sqlite.org/wal.html).
"""

import json
import os
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import attrs
import psutil

from .errors import StateInUse, StateUnavailable

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
    error: sqlite3.Error | None = None


class Store:
    """Run SQLite operations in order, off the event loop, many to a transaction."""

    def __init__(self, path: Path) -> None:
        """Name the file; `open_store` opens it."""
        self.path = path
        self._pending: list[_Work] = []
        self._wake = anyio.Event()

    async def execute(self, operation: Operation) -> Any:
        """Run ``operation`` in the next transaction and return its result once that is on disk.

        Raises StateUnavailable if the disk is full, read-only or stale.
        """
        work = _Work(operation)
        self._pending.append(work)
        self._wake.set()
        await work.done.wait()
        if work.error is not None:
            raise StateUnavailable(
                f"the state in {self.path} cannot be used ({work.error}): free space or make it writable"
            )
        return work.result

    def space(self, name: str) -> "Space":
        """Return the documents that belong to ``name``."""
        return Space(self, name)

    async def run(self) -> None:
        """Commit what is pending, batch by batch, until cancelled."""
        connection = await anyio.to_thread.run_sync(self._connect)
        try:
            while True:
                await self._wake.wait()
                self._wake = anyio.Event()
                batch, self._pending = self._pending, []
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(_commit, connection, batch)
                for work in batch:
                    work.done.set()
        finally:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            self.path.chmod(0o600)
            connection.execute("PRAGMA journal_mode=TRUNCATE")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise StateUnavailable(
                f"the state file {self.path} cannot be opened ({error}): "
                "move it away, or name another directory with --state-dir"
            ) from error
        return connection


def _commit(connection: sqlite3.Connection, batch: list[_Work]) -> None:
    """Run a batch in one transaction; an error fails every write that shared it."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        for work in batch:
            work.result = work.operation(connection)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        for work in batch:
            work.error = error
        if connection.in_transaction:
            connection.execute("ROLLBACK")


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
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _Lock(directory / "lock")
        lock.acquire()
    except OSError as error:
        raise StateUnavailable(
            f"the state directory {directory} cannot be used: {error}"
        ) from error
    try:
        store = Store(directory / "state.sqlite3")
        async with anyio.create_task_group() as group:
            group.start_soon(store.run)
            group.start_soon(lock.refresh)
            yield store
            group.cancel_scope.cancel()
    finally:
        lock.release()


class _Lock:
    """Mark a directory as held, with a file instead of ``flock``, which NFS may not have."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
        }

    def acquire(self) -> None:
        """Create the file, taking over a stale one."""
        if not self._create():
            holder = self._read()
            if self._is_alive(holder):
                raise StateInUse(
                    f"{self.path.parent} is in use by process {holder.get('pid')} on host "
                    f"{holder.get('host')}: stop it, or name another directory with --state-dir"
                )
            self.path.unlink(missing_ok=True)
            if not self._create():
                raise StateInUse(f"{self.path.parent} was taken by another process just now")

    async def refresh(self) -> None:
        """Touch the file until cancelled, for processes on other hosts."""
        while True:
            await anyio.sleep(LOCK_REFRESH)
            await anyio.to_thread.run_sync(os.utime, self.path)

    def release(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def _create(self) -> bool:
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as file:
            json.dump(self._identity, file)
        return True

    def _read(self) -> dict[str, Any]:
        try:
            holder = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return holder if isinstance(holder, dict) else {}

    def _is_alive(self, holder: dict[str, Any]) -> bool:
        if holder.get("host") != self._identity["host"]:
            return self.path.exists() and time.time() - self.path.stat().st_mtime < 6 * LOCK_REFRESH
        try:
            return bool(psutil.Process(holder["pid"]).create_time() == holder["started"])
        except (psutil.Error, KeyError, TypeError, ValueError):
            return False
