"""Give each session a directory of its own."""

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from orbit_core import PluginSession

from .disk import Disk
from .errors import typed
from .paths import Root


@attrs.frozen
class SessionFolders:
    """Own the directories of all sessions, below ``base``; every method blocks."""

    base: Path

    @property
    def _trash(self) -> Path:
        return self.base / "trash"

    def folder(self, sid: str) -> Path:
        """Return the directory of a session."""
        return self.base / "sessions" / sid

    def begin(self, sid: str, *, restored: bool) -> None:
        """Make a session's directory; a new session finds it empty, whatever was left there."""
        if not restored:
            self.end(sid)
        root = Root.of_session(self.folder(sid))
        with typed(lambda: str(root.path)):
            for path in (root.path, root.uploads):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def end(self, sid: str) -> None:
        """Take a session's directory out of reach at once; `clear` deletes it."""
        folder = self.folder(sid)
        with typed(lambda: str(folder)):
            self._trash.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                folder.rename(self._trash / secrets.token_hex(8))
            except FileNotFoundError:
                return

    def clear(self) -> None:
        """Delete what belonged to sessions that are over; what resists is left for another time."""
        shutil.rmtree(self._trash, ignore_errors=True)


class StagingSession(PluginSession):
    """Hold one user's directory, which ends with the session."""

    def __init__(
        self, sid: str, folders: SessionFolders, disk: Disk, clear: Callable[[], None], **rest: Any
    ) -> None:
        """Keep files in ``folders``; ``clear`` has the trash cleared when there is something."""
        super().__init__(sid, **rest)
        self.root = Root.of_session(folders.folder(sid))
        self._folders = folders
        self._disk = disk
        self._clear = clear

    async def start(self, *, restored: bool) -> None:
        """Make the directory. Raises DiskFull, StorageFailed."""
        await self._disk.run(lambda: self._folders.begin(self.sid, restored=restored))

    async def close(self) -> dict[str, Any]:
        """Delete the directory with all that is in it."""
        await self._disk.run(self._folders.end, self.sid)
        self._clear()
        return await super().close()
