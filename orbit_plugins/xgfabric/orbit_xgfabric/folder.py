"""Reach the files of one directory through its descriptor, and nothing by a symbolic link.

Every function blocks.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from .errors import ConfigsUnavailable, InvalidConfig, InvalidWorkdir

SIZE_LIMIT = 1024 * 1024
"""Bytes that a file may have."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_DRAFT = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def open_folder(workdir: Path, name: str, *, make: bool = False) -> Iterator[int]:
    """Open the directory ``name`` in ``workdir`` as a descriptor; ``make`` makes it if missing.

    Raises FileNotFoundError if it is not there, InvalidWorkdir, and ConfigsUnavailable for what
    goes wrong while it is open.
    """
    try:
        with _opened(_enter(workdir)) as outer:
            if make:
                _make(name, outer)
            with _opened(_enter_inner(workdir, name, outer)) as inner:
                yield inner
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigsUnavailable(f"{workdir / name} cannot be used: {error}") from None


def _enter(workdir: Path) -> int:
    try:
        return os.open(workdir, _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidWorkdir(f"{workdir} is no directory: make it, or name another one") from None


def _enter_inner(workdir: Path, name: str, outer: int) -> int:
    try:
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=outer)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise InvalidWorkdir(
                f"{workdir / name} must be a directory, and no symbolic link to one: move it away"
            ) from None
        raise


def _make(name: str, outer: int) -> None:
    try:
        os.mkdir(name, dir_fd=outer)
    except FileExistsError:
        return


@contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_file(folder: int, name: str, where: str) -> bytes:
    """Return a file's content. Raises FileNotFoundError, OSError, and InvalidConfig."""
    try:
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidConfig(f"{where} is a symbolic link: put the file itself there") from None
        raise
    with _opened(descriptor):
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidConfig(f"{where} is no file")
        if status.st_size > SIZE_LIMIT:
            raise InvalidConfig(f"{where} has more than {SIZE_LIMIT} bytes")
        return os.read(descriptor, SIZE_LIMIT)


def write_file(folder: int, name: str, content: bytes) -> None:
    """Write a file that appears, or replaces what is there, when it is whole and on disk.

    Raises OSError.
    """
    draft = f".{name}.{token_hex(4)}"
    descriptor = os.open(draft, _DRAFT, 0o644, dir_fd=folder)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(draft, dir_fd=folder)
        raise
    os.fsync(folder)
