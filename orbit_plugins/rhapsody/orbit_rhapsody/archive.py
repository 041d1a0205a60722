"""Keep tasks on disk: that they were accepted, and their results for a while.

A large result is a file of its own, which is there before the row that names it.

Many rows go in one statement: SQLite lets the event loop run during a statement, and each return
from one has to wait for it.
"""

import json
import sqlite3
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from orbit_core import PluginContext

from .errors import DuplicateTask
from .ledger import Ledger
from .records import Accepted, Ended, Row

INLINE = 64 * 1024
"""Bytes of the largest result that stands in the database itself."""

PAGE = 4 * 1024 * 1024
"""Bytes of results that are read at a time, and one result more."""

GONE_KEPT = 10
"""How many times as many tasks are remembered as gone as results are kept."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    number INTEGER PRIMARY KEY, sid TEXT NOT NULL, uid TEXT NOT NULL, request BLOB,
    state TEXT, seq INTEGER, finished REAL, size INTEGER, body BLOB, file TEXT,
    UNIQUE (sid, uid))
"""
_INDICES = (
    "CREATE INDEX IF NOT EXISTS by_seq ON tasks (sid, seq)",
    "CREATE INDEX IF NOT EXISTS by_age ON tasks (finished) WHERE size IS NOT NULL",
)
ROWS = 64
"""Ends that one statement writes: the least limit that SQLite is built with is 999 values."""

TURN = 512
"""Ends that one transaction writes, so that tasks which come meanwhile need not wait for all."""

_ACCEPT = """
INSERT INTO tasks (number, sid, uid, request)
SELECT ? + key, ?, value, ? FROM json_each(?)
"""
_FINISH = """
WITH ends (number, state, seq, finished, size, body, file) AS (VALUES {values})
REPLACE INTO tasks (number, sid, uid, request, state, seq, finished, size, body, file)
SELECT number, sid, uid, request, ends.state, ends.seq, ends.finished, ends.size, ends.body,
    ends.file
FROM ends JOIN tasks USING (number)
"""
# ``size`` is NULL before the end of a task and after its result has gone; ``state`` tells which.


class Archive:
    """Keep the tasks of one plugin instance."""

    def __init__(self, context: PluginContext) -> None:
        """Use the plugin's directory."""
        self.ledger = Ledger(context.directory / "tasks.sqlite3")
        self._directory = context.directory / "results"
        self._next = 0

    async def open(self) -> None:
        """Make the table, and go on counting where an earlier process stopped."""
        await anyio.to_thread.run_sync(
            lambda: self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        )
        self._next = 1 + await self.ledger.open(_prepare)
        named = await self.ledger.execute(
            lambda connection: connection.execute(
                "SELECT file FROM tasks WHERE file IS NOT NULL"
            ).fetchall()
        )
        await anyio.to_thread.run_sync(self._remove_unnamed, {row[0] for row in named})

    def _remove_unnamed(self, named: set[str]) -> None:
        """Remove the files of results whose rows a killed process did not write."""
        _remove(path for path in self._directory.iterdir() if path.name not in named)

    def numbers(self, count: int) -> range:
        """Return numbers for more tasks."""
        first = self._next
        self._next += count
        return range(first, self._next)

    async def accept(self, sid: str, request: bytes | None, first: int, uids: list[str]) -> bool:
        """Have tasks written down, numbered from ``first``; False if the same request did before.

        Raises DuplicateTask, StateUnavailable.
        """

        def write(connection: sqlite3.Connection) -> bool:
            try:
                connection.execute(_ACCEPT, (first, sid, request, json.dumps(uids)))
                return True
            except sqlite3.IntegrityError:
                found = _select(connection, "request", sid, uids[0])
                if request is not None and found is not None and found[0] == request:
                    return False
                raise DuplicateTask(
                    f"session {sid} has had a task {_taken(connection, sid, uids)}: "
                    "a uid serves once"
                ) from None

        return await self.ledger.execute_one(write)

    async def finish(self, ends: list[Ended]) -> None:
        """Have results written down. Raises StateUnavailable."""
        large = {end.number: end for end in ends if len(end.body) > INLINE}
        files = await anyio.to_thread.run_sync(self._write_files, large) if large else {}
        rows = [
            (
                end.number,
                end.state,
                end.seq,
                end.finished,
                len(end.body),
                None if end.number in files else end.body,
                files.get(end.number),
            )
            for end in ends
        ]

        for start in range(0, len(rows), TURN):
            turn = rows[start : start + TURN]
            await self.ledger.execute(partial(_finish, rows=turn))

    def _write_files(self, ends: dict[int, Ended]) -> dict[int, str]:
        names = {}
        for number, end in ends.items():
            names[number] = name = uuid.uuid4().hex
            (self._directory / name).write_bytes(end.body)
        return names

    async def find(self, sid: str, uids: list[str]) -> dict[str, Row]:
        """Return what there is of these tasks, by uid."""

        def read(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            columns = "uid, seq, state, body, file"
            found = (_select(connection, columns, sid, uid) for uid in uids)
            return [row for row in found if row is not None]

        rows = await self.ledger.execute(read)
        return {row.uid: row for row in await self._complete(rows)}

    async def after(self, sid: str, seq: int) -> list[Row]:
        """Return a page of a session's results that came after ``seq``, in order."""

        def read(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            cursor = connection.execute(
                "SELECT uid, seq, state, body, file, size FROM tasks"
                " WHERE sid = ? AND seq > ? ORDER BY seq",
                (sid, seq),
            )
            found, size = [], 0
            for row in cursor:
                found.append(row[:5])
                size += row[5] or 0
                if size > PAGE:
                    break
            return found

        return await self._complete(await self.ledger.execute(read))

    async def uids(self, sid: str) -> list[Row]:
        """Return all tasks of a session in the order in which they came, without their results."""
        rows = await self.ledger.execute(
            lambda connection: connection.execute(
                "SELECT uid, seq, state FROM tasks WHERE sid = ? ORDER BY number", (sid,)
            ).fetchall()
        )
        return [Row(*row) for row in rows]

    async def unfinished(self, sid: str) -> tuple[int, list[Accepted]]:
        """Return the last ``seq`` of a session, and its tasks that are not over."""

        def read(connection: sqlite3.Connection) -> tuple[int, list[tuple[Any, ...]]]:
            last = connection.execute(
                "SELECT MAX(seq) FROM tasks WHERE sid = ?", (sid,)
            ).fetchone()[0]
            rows = connection.execute(
                "SELECT number, uid FROM tasks WHERE sid = ? AND seq IS NULL ORDER BY number",
                (sid,),
            ).fetchall()
            return last or 0, rows

        last, rows = await self.ledger.execute(read)
        return last, [Accepted(*row) for row in rows]

    async def forget(self, sid: str) -> None:
        """Remove everything of a session."""
        await self._evict("sid = ?", (sid,), delete=True)

    async def sweep(self, *, keep_days: float, keep_count: int, keep_bytes: int) -> None:
        """Let the oldest results go: what is too old, and what is too many or too much."""
        await self._evict("finished < ?", (time.time() - keep_days * 86400,))
        kept = await self.ledger.execute(
            lambda connection: connection.execute(
                "SELECT number, finished, size FROM tasks"
                " WHERE size IS NOT NULL ORDER BY finished DESC, number DESC"
            ).fetchall()
        )
        total = 0
        for position, (number, finished, size) in enumerate(kept):
            total += size
            if position >= keep_count or total > keep_bytes:
                await self._evict(
                    "(finished < ? OR finished = ? AND number <= ?)", (finished, finished, number)
                )
                break
        await self.ledger.execute(
            lambda connection: (
                connection.execute(
                    "DELETE FROM tasks WHERE size IS NULL AND number <= ? AND finished IS NOT NULL",
                    (self._next - GONE_KEPT * keep_count,),
                ).rowcount
            )
        )

    async def _evict(self, which: str, values: tuple[Any, ...], *, delete: bool = False) -> None:
        change = (
            "DELETE FROM tasks"
            if delete
            else "UPDATE tasks SET body = NULL, file = NULL, size = NULL"
        )
        where = f" WHERE {which}" + ("" if delete else " AND size IS NOT NULL")

        def write(connection: sqlite3.Connection) -> list[str]:
            query = f"SELECT file FROM tasks{where} AND file IS NOT NULL"
            names = [row[0] for row in connection.execute(query, values)]
            connection.execute(change + where, values)
            return names

        names = await self.ledger.execute(write)
        if names:
            await anyio.to_thread.run_sync(_remove, [self._directory / name for name in names])

    async def _complete(self, rows: list[tuple[Any, ...]]) -> list[Row]:
        if not any(row[4] for row in rows):
            return [Row(*row[:4]) for row in rows]
        return await anyio.to_thread.run_sync(
            lambda: [Row(row[0], row[1], row[2], self._body(row[3], row[4])) for row in rows]
        )

    def _body(self, body: bytes | None, file: str | None) -> bytes | None:
        return body if file is None else self._read_file(file)

    def _read_file(self, name: str) -> bytes | None:
        try:
            return (self._directory / name).read_bytes()
        except FileNotFoundError:
            return None


def _select(connection: sqlite3.Connection, what: str, sid: str, uid: str) -> Any:
    query = f"SELECT {what} FROM tasks WHERE sid = ? AND uid = ?"
    return connection.execute(query, (sid, uid)).fetchone()


def _taken(connection: sqlite3.Connection, sid: str, uids: list[str]) -> str:
    return next((uid for uid in uids if _select(connection, "uid", sid, uid)), uids[0])


def _finish(connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> None:
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        values = ", ".join(["(?, ?, ?, ?, ?, ?, ?)"] * len(some))
        connection.execute(_FINISH.format(values=values), list(chain.from_iterable(some)))


def _prepare(connection: sqlite3.Connection) -> int:
    connection.execute(_SCHEMA)
    for index in _INDICES:
        connection.execute(index)
    last = connection.execute("SELECT MAX(number) FROM tasks").fetchone()[0]
    return int(last or 0)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()
