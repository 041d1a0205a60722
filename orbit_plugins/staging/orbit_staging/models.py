"""Name the values that travel: what the routes take and answer, and the plugin's settings."""

from pathlib import Path
from typing import Literal

import attrs

Kind = Literal["file", "dir", "unknown"]
"""What is at a path; links and special files, which are never opened, are ``unknown``."""


@attrs.frozen(kw_only=True)
class Settings:
    """Hold the section ``[plugin.staging]``.

    ``directory`` is where the sessions' files are, below the plugin's state unless named. ``roots``
    names further directories, each with who may use it: owners of tokens, or ``*`` for everybody
    whose calls the endpoint takes; administrators may use all. ``keep_uploads`` is for how many
    seconds an upload that stopped may be resumed.
    """

    directory: Path | None = None
    roots: dict[str, list[str]] = attrs.field(factory=dict)
    keep_uploads: float = 7 * 24 * 3600.0


@attrs.frozen
class PutBody:
    """Ask to store a small file; ``content`` is base64."""

    filename: str
    content: str
    overwrite: bool = False


@attrs.frozen
class GetBody:
    """Ask for a small file."""

    filename: str


@attrs.frozen
class ListBody:
    """Ask what is in a directory: at most ``limit`` entries, after the name ``after``."""

    path: str = ""
    limit: int = 10_000
    after: str = ""


@attrs.frozen
class StatBody:
    """Ask what is at a path; ``checksum`` asks for a file's SHA-256, too."""

    path: str
    checksum: bool = False


@attrs.frozen
class MakeBody:
    """Ask for a directory, with its parents; one that is there already is no error."""

    path: str


@attrs.frozen
class DeleteBody:
    """Ask to delete a file, a link or an empty directory; ``recursive`` takes a full one, too."""

    path: str
    recursive: bool = False


@attrs.frozen
class UploadBody:
    """Name an upload by its target and the ``upload`` id that its client chose."""

    path: str
    upload: str


@attrs.frozen
class CommitBody:
    """Ask to make a whole upload visible as ``path``; ``sha256`` is hexadecimal."""

    path: str
    upload: str
    sha256: str
    overwrite: bool = False


@attrs.frozen
class GrantBody:
    """Ask for a ticket with which the endpoint ``endpoint`` may read a file."""

    path: str
    endpoint: str


@attrs.frozen
class CopyBody:
    """Ask to fetch a file from another ``endpoint``, whose ``plugin`` gave the ``ticket``."""

    endpoint: str
    plugin: str
    ticket: str
    path: str
    overwrite: bool = False


@attrs.frozen
class Stored:
    """Say where a file is now; ``sha256`` is that of the bytes that arrived."""

    path: str
    size: int
    sha256: str


@attrs.frozen
class Content:
    """Hold a small file; ``content`` is base64."""

    path: str
    size: int
    content: str


@attrs.frozen
class Entry:
    """Describe one name in a directory; ``size`` is None for what is no file."""

    name: str
    type: Kind
    size: int | None


@attrs.frozen
class Listing:
    """Hold a directory's entries by name; ``next`` is where to go on, if there are more."""

    path: str
    entries: list[Entry]
    next: str | None = None


@attrs.frozen
class Status:
    """Describe what is at a path.

    ``modified`` is seconds since the epoch; ``etag`` changes whenever the file does.
    """

    path: str
    type: Kind
    size: int | None
    modified: float
    etag: str
    sha256: str | None = None


@attrs.frozen
class Made:
    """Name a directory that is there now."""

    path: str


@attrs.frozen
class Deleted:
    """Name what is there no more."""

    path: str


@attrs.frozen
class Arrived:
    """Say how many bytes of an upload have arrived: where to go on."""

    offset: int


@attrs.frozen
class Ticket:
    """Hold what lets another endpoint read one file; ``expires`` is seconds from now."""

    ticket: str
    expires: float
