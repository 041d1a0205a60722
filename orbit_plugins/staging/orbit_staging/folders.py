"""Reach files and directories from the open directory of their root; every function blocks.

A path is walked part by part, each opened in the one before and none through a symbolic link
(``O_NOFOLLOW``), so that neither a link nor a directory that is exchanged meanwhile leads out of
the root. Links are refused wherever they lead; what is no plain file is never opened.
"""

import errno
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

import attrs

from .errors import AlreadyThere, PathRefused, WrongKind, typed
from .models import Deleted, Entry, Kind, Listing, Made, Status
from .paths import UPLOADS, Place

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a pipe that takes a file's place after the look at it must not hold the thread.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


@contextmanager
def open_folder(place: Place, *, make: bool = False) -> Iterator[int]:
    """Open a directory as a descriptor to work in; ``make`` makes it and its parents if missing.

    Raises UnknownFile, WrongKind, PathRefused.
    """
    with typed(lambda: str(place)):
        folder = os.open(place.root.path, _FOLDER)
        try:
            for part in place.parts:
                if make:
                    _make(folder, part)
                inner = _enter(folder, part, place)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)


def _make(folder: int, name: str) -> None:
    try:
        os.mkdir(name, dir_fd=folder)
    except FileExistsError:
        return


def _enter(folder: int, name: str, place: Place) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except NotADirectoryError as error:
        if stat.S_ISLNK(_look(folder, name).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error
        raise


def _look(folder: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def look(place: Place) -> os.stat_result:
    """Return what is at a place, whatever it is, without opening it. Raises UnknownFile."""
    if not place.parts:
        with open_folder(place) as folder:
            return os.fstat(folder)
    with open_folder(place.folder) as folder, typed(lambda: str(place)):
        return _look(folder, place.name)


def open_file(place: Place) -> tuple[int, os.stat_result]:
    """Open a plain file to read, and return its descriptor and what it was when opened.

    Raises UnknownFile, WrongKind for a directory, PathRefused for a link or a special file.
    """
    with open_folder(place.folder) as folder, typed(lambda: str(place)):
        check_plain(_look(folder, place.name), place)
        descriptor = os.open(place.name, _FILE, dir_fd=folder)
        try:
            status = os.fstat(descriptor)
            check_plain(status, place)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, status


def check_readable(place: Place) -> None:
    """Refuse what `open_file` refuses."""
    descriptor, _ = open_file(place)
    os.close(descriptor)


def check_plain(status: os.stat_result, place: Place) -> None:
    """Refuse what is no plain file. Raises WrongKind, PathRefused."""
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise WrongKind(f"{place} is a directory")
    if stat.S_ISLNK(mode):
        raise PathRefused(f"{place} is a symbolic link: name what it leads to")
    raise PathRefused(f"{place} is a pipe, socket or device: only plain files are moved")


def check_target(folder: int, place: Place, *, overwrite: bool) -> None:
    """Refuse a target that may not be written. Raises AlreadyThere, WrongKind, PathRefused."""
    try:
        found = _look(folder, place.name)
    except FileNotFoundError:
        return
    check_plain(found, place)
    if not overwrite:
        raise AlreadyThere(
            f"{place} is there already: choose another name, or overwrite it (--overwrite)"
        )


def move_to_new(source_folder: int | None, source: str, folder: int | None, name: str) -> None:
    """Move a file to a name that nothing has, each in its open directory.

    Raises FileExistsError, where the file system has hard links at whatever moment that is so.
    """
    try:
        os.link(source, name, src_dir_fd=source_folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        os.rename(source, name, src_dir_fd=source_folder, dst_dir_fd=folder)
    else:
        os.unlink(source, dir_fd=source_folder)


def etag_of(status: os.stat_result) -> str:
    """Return what changes whenever a file does, in quotes (RFC 9110, section 8.8.3)."""
    figures = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return '"' + "-".join(f"{figure:x}" for figure in figures) + '"'


def kind_of(mode: int) -> Kind:
    """Return the documented word for what is at a path."""
    return "file" if stat.S_ISREG(mode) else "dir" if stat.S_ISDIR(mode) else "unknown"


def describe(place: Place, status: os.stat_result, sha256: str | None = None) -> Status:
    """Return what there is to say of a place."""
    kind = kind_of(status.st_mode)
    size = status.st_size if kind == "file" else None
    return Status(str(place), kind, size, status.st_mtime, etag_of(status), sha256)


def list_folder(place: Place, limit: int, after: str) -> Listing:
    """Return a directory's entries by name, at most ``limit`` of those after ``after``.

    Raises UnknownFile, WrongKind, PathRefused.
    """
    with open_folder(place) as folder, typed(lambda: str(place)):
        readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        try:
            names = sorted(name for name in os.listdir(readable) if name != UPLOADS)
            later = [name for name in names if name > after]
            entries = [_entry(readable, name) for name in later[:limit]]
        finally:
            os.close(readable)
    more = later[limit - 1] if len(later) > limit else None
    return Listing(str(place), [entry for entry in entries if entry is not None], more)


def _entry(folder: int, name: str) -> Entry | None:
    """Describe one name; None if it was deleted meanwhile."""
    try:
        status = _look(folder, name)
    except FileNotFoundError:
        return None
    kind = kind_of(status.st_mode)
    return Entry(name, kind, status.st_size if kind == "file" else None)


def make_folder(place: Place) -> Made:
    """Make a directory with its parents; one that is there is no error.

    Raises WrongKind, PathRefused, DiskFull.
    """
    with open_folder(place, make=True):
        return Made(str(place))


def delete(place: Place, *, recursive: bool) -> Deleted:
    """Delete a file, a link (not what it leads to) or a directory, a full one if ``recursive``.

    Raises UnknownFile, NotEmpty, PathRefused, InvalidPath for the root itself.
    """
    name = place.name
    with open_folder(place.folder) as folder, typed(lambda: str(place)):
        if not stat.S_ISDIR(_look(folder, name).st_mode):
            os.unlink(name, dir_fd=folder)
        elif recursive:
            shutil.rmtree(name, dir_fd=folder)
        else:
            os.rmdir(name, dir_fd=folder)
    return Deleted(str(place))


@attrs.frozen
class Identity:
    """Tell one state of one file from every other."""

    device: int
    etag: str

    @classmethod
    def of(cls, status: os.stat_result) -> "Identity":
        """Return the identity of what was looked at."""
        return cls(status.st_dev, etag_of(status))


SETTLED = 2.0
"""Seconds for which a file must be unchanged for its times to tell the next change."""


def is_settled(status: os.stat_result) -> bool:
    """Tell whether a change from now on would show in the file's times, which are coarse."""
    return time.time() - max(status.st_mtime, status.st_ctime) > SETTLED
