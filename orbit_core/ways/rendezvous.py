"""Leave values in a folder of a shared file system, and find those of the other side."""

import json
import os
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread

from orbit_core._codec import from_wire, parse_json, to_data
from orbit_core.config import write_private
from orbit_core.errors import InvalidBody

T = TypeVar("T")

LIMIT = 64 * 1024
"""Bytes of one file that are read."""


class Rendezvous:
    """Be one child's folder, in which each file is written by one side only."""

    def __init__(self, directory: Path) -> None:
        """Meet in ``directory``, which only its owner may read."""
        self.directory = directory

    async def write(self, name: str, value: Any) -> None:
        """Leave a value, whole or not at all. Raises OSError."""
        text = json.dumps(to_data(value))
        await anyio.to_thread.run_sync(write_private, self.directory / name, text)

    async def read(self, name: str, kind: type[T]) -> T | None:
        """Return a value, None if nobody left it. Raises InvalidBody if it is no ``kind``."""
        text = await anyio.to_thread.run_sync(self._read, name)
        if text is None:
            return None
        try:
            return from_wire(parse_json(text), kind, str(self.directory / name))
        except ValueError as error:
            raise InvalidBody(f"{self.directory / name} is not JSON: {error}") from None

    async def remove(self, name: str) -> None:
        """Take a value away, if it is there."""
        await anyio.to_thread.run_sync(lambda: (self.directory / name).unlink(missing_ok=True))

    def _read(self, name: str) -> bytes | None:
        """Read a file; looking at the folder first makes an NFS client forget what was absent."""
        try:
            if name not in os.listdir(self.directory):
                return None
            with (self.directory / name).open("rb") as file:
                return file.read(LIMIT)
        except OSError:
            return None
