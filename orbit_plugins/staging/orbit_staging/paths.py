"""Read the paths that callers name, and find the root below which each is.

A path is relative to the session's own directory, or absolute, or below ``~``, the home of the user
that runs the endpoint. It is taken apart here as text; `orbit_staging.folders` walks it.
"""

import os
import re
import reprlib
from collections.abc import Iterable
from pathlib import Path

import attrs

from orbit_core.models import Principal, Role

from .errors import InvalidPath, PathRefused

UPLOADS = ".orbit-uploads"
"""The folder of unfinished uploads at the top of a root; nobody reaches it by a path."""

LONGEST = 4096
"""Characters that a path may have."""

Parts = tuple[str, ...]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@attrs.frozen
class Root:
    """Be a directory below which files may be; ``uploads`` is where unfinished ones are.

    ``names`` are the absolute paths by which people know it, before symbolic links are resolved
    and after.
    """

    path: Path
    uploads: Path
    names: frozenset[Parts]

    @classmethod
    def of_session(cls, folder: Path) -> "Root":
        """Return the root of a session whose own folder is ``folder``."""
        files = folder / "files"
        return cls(files, folder / "uploads", frozenset({files.parts[1:]}))

    @classmethod
    def of_setting(cls, text: str) -> "Root":
        """Return a root that the configuration names; this reads the disk."""
        known = Path(os.path.normpath(Path(text).expanduser()))
        path = known.resolve()
        return cls(path, path / UPLOADS, frozenset({known.parts[1:], path.parts[1:]}))

    def below(self, parts: Parts) -> Parts | None:
        """Return what of an absolute path's parts is below this root, None if it is elsewhere."""
        for name in self.names:
            if parts[: len(name)] == name:
                return parts[len(name) :]
        return None


@attrs.frozen
class Place:
    """Be one path below one root."""

    root: Root
    parts: Parts

    def __str__(self) -> str:
        """Return the absolute path."""
        return str(self.root.path.joinpath(*self.parts))

    @property
    def folder(self) -> "Place":
        """Return the directory that it is in."""
        return Place(self.root, self.parts[:-1])

    @property
    def name(self) -> str:
        """Return the last part. Raises InvalidPath for the root itself."""
        if not self.parts:
            raise InvalidPath(f"{self} is the directory itself: name something in it")
        return self.parts[-1]


@attrs.frozen
class Places:
    """Find the place that a path names, for one caller in one session."""

    own: Root
    others: list[Root]
    home: Path

    def find(self, text: str) -> Place:
        """Return the place. Raises InvalidPath, and PathRefused if it is in no root."""
        parts = split(text)
        if text == "~" or text.startswith("~/"):
            parts = (*self.home.parts[1:], *parts[1:])
        elif not text.startswith("/"):
            return Place(self.own, parts)
        found = [
            Place(root, below)
            for root in (self.own, *self.others)
            if (below := root.below(parts)) is not None
        ]
        if not found:
            usable = ", ".join(str(root.path) for root in self.others) or "no other directory"
            raise PathRefused(
                f"{text} is not yours to use: name a path relative to your session's directory; "
                f"this endpoint is configured to give you {usable}"
            )
        return min(found, key=lambda place: len(place.parts))


def split(text: str) -> Parts:
    """Return a path's parts, without empty ones and ``.``.

    Raises InvalidPath for ``..``, for control characters, which no name needs, and for what is no
    UTF-8.
    """
    if len(text) > LONGEST:
        raise InvalidPath(f"a path has at most {LONGEST} characters, not {len(text)}")
    parts = tuple(part for part in text.split("/") if part not in ("", "."))
    for part in parts:
        if part == "..":
            raise InvalidPath(
                f"{reprlib.repr(text)} leads upwards with '..': name the place itself"
            )
        if part == UPLOADS:
            raise PathRefused(f"{UPLOADS} is where unfinished uploads are: choose another name")
        if _CONTROL.search(part) or not _is_encodable(part):
            raise InvalidPath(
                f"no file may be called {reprlib.repr(part)}: take the odd characters out"
            )
    return parts


def _is_encodable(part: str) -> bool:
    try:
        part.encode()
    except UnicodeEncodeError:
        return False
    return True


def may_use(principal: Principal, owners: Iterable[str]) -> bool:
    """Tell whether a caller is among those whom the configuration gives a root.

    An endpoint that calls through its hub is ``endpoint:NAME``: what its owner may use is not what
    everybody may have it use.
    """
    return principal.role is Role.ADMIN or bool({principal.owner_key, "*"} & set(owners))
