"""Move whole directories: all plain files in them, several at a time.

A symbolic link is neither followed nor made anywhere, nor is a pipe, socket or device opened: they
are left out, and named. The names come from another host, so each is looked at before it becomes
part of a path here.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import anyio
import attrs

from orbit_core.errors import OrbitError
from orbit_core.values import as_model

from .digests import Digests
from .disk import Disk
from .errors import AlreadyThere, InvalidPath, UnknownFile, typed
from .folders import describe, list_folder, look, make_folder, open_file
from .local import LocalFile
from .models import Entry, ListBody, Status
from .paths import Parts, Place, Root, split
from .patience import patiently
from .transfers import Progress

PAGE = ListBody().limit
"""Entries of a directory that are read at one time."""

WORKERS = 8
"""Files that are on their way at one time: most of a small one's time is waiting for answers."""


class Side(Protocol):
    """Be a directory that is read or written; all raise OrbitError."""

    async def entries(self, parts: Parts) -> list[Entry]:
        """Return what is in the directory ``parts`` below."""
        ...

    async def status(self, parts: Parts, *, checksum: bool) -> Status | None:
        """Describe what is at ``parts``, None if there is nothing."""
        ...

    async def make(self, parts: Parts) -> str:
        """Make a directory with its parents, unless it is there, and return its path."""
        ...


@attrs.frozen(eq=False)
class Here:
    """Be a directory of this host."""

    root: Root
    disk: Disk

    @classmethod
    async def at(cls, path: str | Path, disk: Disk) -> "Here":
        """Return the directory at ``path``, which need not be there."""
        return cls(await disk.run(Root.of_setting, str(path)), disk)

    def path(self, parts: Parts) -> Path:
        """Return the path of what is at ``parts``."""
        return self.root.path.joinpath(*parts)

    async def open(self, parts: Parts) -> LocalFile:
        """Open a plain file, reaching it through no link."""
        descriptor, status = await self.disk.run(open_file, Place(self.root, parts))
        return LocalFile(self.path(parts), descriptor, status)

    async def entries(self, parts: Parts) -> list[Entry]:
        """Return what is in a directory."""
        return await self.disk.run(self._entries, Place(self.root, parts))

    def _entries(self, place: Place) -> list[Entry]:
        listing = list_folder(place, PAGE, "")
        entries = listing.entries
        while listing.next is not None:
            listing = list_folder(place, PAGE, listing.next)
            entries += listing.entries
        return entries

    async def status(self, parts: Parts, *, checksum: bool) -> Status | None:
        """Describe what is at ``parts``."""
        try:
            return await self.disk.run(self._status, Place(self.root, parts), checksum)
        except UnknownFile:
            return None

    def _status(self, place: Place, checksum: bool) -> Status:
        if not checksum:
            return describe(place, look(place))
        descriptor, status = open_file(place)
        try:
            return describe(place, status, Digests().of_file(descriptor, status, str(place)))
        finally:
            os.close(descriptor)

    async def make(self, parts: Parts) -> str:
        """Make a directory; below this one a link in its place is refused."""
        return await self.disk.run(self._make, parts)

    def _make(self, parts: Parts) -> str:
        with typed(lambda: str(self.root.path)):
            self.root.path.mkdir(parents=True, exist_ok=True)
        return make_folder(Place(self.root, parts)).path


@attrs.frozen(eq=False)
class There:
    """Be a directory at an endpoint, at ``top`` in the session of ``client``."""

    client: Any
    top: str

    def path(self, parts: Parts) -> str:
        """Return the path of what is at ``parts``."""
        top = self.top.rstrip("/") or self.top
        return "/".join((top, *parts) if top else parts)

    async def entries(self, parts: Parts) -> list[Entry]:
        """Return what is in a directory."""
        listing = await self._ask(lambda: self.client.list(self.path(parts)))
        return [as_model(entry, Entry, "entry") for entry in listing["entries"]]

    async def status(self, parts: Parts, *, checksum: bool) -> Status | None:
        """Describe what is at ``parts``."""
        try:
            found = await self._ask(lambda: self.client.stat(self.path(parts), checksum))
        except UnknownFile:
            return None
        return as_model(found, Status, "status")

    async def make(self, parts: Parts) -> str:
        """Make a directory."""
        return str((await self._ask(lambda: self.client.mkdir(self.path(parts))))["path"])

    async def _ask(self, call: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        return await patiently(self.client.patience, call)


@attrs.frozen
class Tree:
    """Hold what is in a directory: files with their sizes, empty directories, and the others."""

    files: dict[Parts, int] = attrs.field(factory=dict)
    empty: list[Parts] = attrs.field(factory=list)
    others: list[Parts] = attrs.field(factory=list)


async def read_tree(side: Side) -> Tree:
    """Return all that is in a directory. Raises InvalidPath for a name that could lead elsewhere.

    Raises UnknownFile, WrongKind, PathRefused as well.
    """
    tree = Tree()
    waiting: list[Parts] = [()]
    while waiting:
        folder = waiting.pop()
        entries = await side.entries(folder)
        if not entries:
            tree.empty.append(folder)
        for entry in entries:
            parts = (*folder, entry.name)
            match entry.type:
                case "file":
                    tree.files[_checked(parts)] = entry.size or 0
                case "dir":
                    waiting.append(_checked(parts))
                case "unknown":
                    tree.others.append(parts)
    return tree


def _checked(parts: Parts) -> Parts:
    if split(parts[-1]) != parts[-1:]:
        raise InvalidPath(f"{parts[-1]!r} is no name of a file: nothing was moved")
    return parts


Move = Callable[[Parts, Progress], Awaitable[Any]]
"""Move the file at some parts, and tell how far it is."""


@attrs.define(eq=False)
class TreeMove:
    """Move all files of one directory with ``move`` into another."""

    source: Side
    target: Side
    move: Move
    overwrite: bool
    progress: Progress
    _done: int = 0
    _total: int = 0

    async def run(self) -> dict[str, Any]:
        """Return the target's ``path``, the number of ``files``, their ``size``, and ``skipped``.

        The last are what was left out. A file that is at its target already, with the same SHA-256,
        is not moved again.

        Raises AlreadyThere for any other, unless it may be replaced.
        """
        tree = await read_tree(self.source)
        self._total = sum(tree.files.values())
        path = await self.target.make(())
        for folder in tree.empty:
            await self.target.make(folder)
        self.progress(0, self._total)
        await self._move_all(tree.files)
        skipped = sorted("/".join(parts) for parts in tree.others)
        return {"path": path, "files": len(tree.files), "size": self._total, "skipped": skipped}

    async def _move_all(self, files: dict[Parts, int]) -> None:
        """Move the files; the first that cannot be moved ends it."""
        waiting = iter(sorted(files.items()))
        failures: list[OrbitError] = []

        async def work() -> None:
            try:
                for parts, size in waiting:
                    await self._move(parts, size)
            except OrbitError as error:
                failures.append(error)
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for _ in range(WORKERS):
                group.start_soon(work)
        if failures:
            raise failures[0]

    async def _move(self, parts: Parts, size: int) -> None:
        seen = 0

        def see(done: int, total: int) -> None:
            nonlocal seen
            self._done += done - seen
            seen = done
            self.progress(self._done, self._total)

        if await self._is_there(parts, size):
            see(size, size)
        else:
            await self.move(parts, see)

    async def _is_there(self, parts: Parts, size: int) -> bool:
        found = await self.target.status(parts, checksum=False)
        if found is None:
            return False
        if found.type == "file" and found.size == size:
            ours = await self.source.status(parts, checksum=True)
            theirs = await self.target.status(parts, checksum=True)
            if ours is not None and theirs is not None and ours.sha256 == theirs.sha256:
                return True
        if not self.overwrite:
            raise AlreadyThere(
                f"{found.path} is there already, and is another one: choose another directory, "
                "or overwrite it"
            )
        return False
