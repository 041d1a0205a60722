"""Name what can go wrong with files.

Importing this module is what lets a client raise these classes again from a reply's ``code``.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orbit_core.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    OrbitError,
    StateUnavailable,
    Unprocessable,
)


class InvalidPath(BadRequest):
    """Refuse a path that no file can have, or that leads upwards."""

    code = "invalid_path"


class PathRefused(Forbidden):
    """Refuse a path that is outside of what the caller may use, or no plain file or directory."""

    code = "path_refused"


class TicketRefused(Forbidden):
    """Refuse to hand a file to another endpoint without a valid ticket for it."""

    code = "ticket_refused"


class UnknownFile(NotFound):
    """Answer for a path at which there is nothing."""

    code = "unknown_file"


class UnknownUpload(NotFound):
    """Answer for an upload of which nothing has arrived, or nothing is left."""

    code = "unknown_upload"


class AlreadyThere(Conflict):
    """Refuse to replace what is there without being told to."""

    code = "already_there"


class WrongKind(Conflict):
    """Refuse to treat a directory as a file, or a file as a directory."""

    code = "wrong_kind"


class NotEmpty(Conflict):
    """Refuse to delete a directory with something in it without being told to."""

    code = "not_empty"


class FileChanged(OrbitError):
    """Report that a file became another one while it was on its way."""

    status = 412
    code = "file_changed"


class UploadBusy(Conflict):
    """Refuse a second request for an upload while the first is still running."""

    code = "upload_busy"


class WrongOffset(Conflict):
    """Refuse a part of an upload that does not follow what has arrived."""

    code = "wrong_offset"


class RangeNotSatisfiable(OrbitError):
    """Refuse a range that begins behind the end of the file."""

    status = 416
    code = "range_not_satisfiable"


class ChecksumMismatch(Unprocessable):
    """Report that what arrived is not what was sent; it is thrown away."""

    code = "checksum_mismatch"


class AnotherFileSystem(Unprocessable):
    """Refuse a path on another file system than its root's: no file can appear there at once."""

    code = "another_file_system"


class DiskFull(StateUnavailable):
    """Report that there is no room for a file, or that a quota or limit is reached."""

    code = "disk_full"


class StorageFailed(StateUnavailable):
    """Report that the file system refused an operation, with its reason."""

    code = "storage_failed"


_KINDS: dict[int, tuple[type[OrbitError], str]] = {
    errno.ENOENT: (UnknownFile, "there is nothing at {}"),
    errno.EEXIST: (
        AlreadyThere,
        "{} is there already: choose another name, or overwrite it (--overwrite)",
    ),
    errno.EISDIR: (WrongKind, "{} is a directory"),
    errno.ENOTDIR: (WrongKind, "{} is not a directory, or below something that is none"),
    errno.ENOTEMPTY: (NotEmpty, "{} is not empty: delete what is in it, or ask for all of it"),
    errno.EACCES: (PathRefused, "the user of this process has no permission for that at {}"),
    errno.EPERM: (PathRefused, "the user of this process has no permission for that at {}"),
    errno.EROFS: (PathRefused, "{} is on a file system that is read-only"),
    errno.ELOOP: (PathRefused, "{} is a symbolic link, or below one: name what it leads to"),
    errno.ENAMETOOLONG: (InvalidPath, "{} is longer than its file system takes"),
    errno.EXDEV: (
        AnotherFileSystem,
        "{} is on another file system than its root: have it made a root of its own",
    ),
}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def typed(name: Callable[[], str]) -> Iterator[None]:
    """Turn what the operating system says of a file, called ``name()``, into an error of ours."""
    try:
        yield
    except OSError as error:
        raise error_for(error, name()) from error


def error_for(error: OSError, name: str) -> OrbitError:
    """Return the error of ours for what the operating system says of a file."""
    if error.errno in _NO_ROOM:
        return DiskFull(f"there is no room for {name} ({error.strerror}): free some, and go on")
    if error.errno in _KINDS:
        kind, text = _KINDS[error.errno]
        return kind(text.format(name))
    return StorageFailed(f"{name} cannot be used: {error.strerror or error}")
