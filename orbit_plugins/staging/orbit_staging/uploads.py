"""Keep files that are still arriving apart, and make each visible at once when it is whole.

An upload is one file in its root's folder of uploads, named by hashes of who sends it, its target
and the id that the sender chose: a sender that comes back finds its own and nobody else's. What is
in it is what has arrived: it needs no other record, and outlives the process.
"""

import errno
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import attrs

from .digests import Arriving, hash_start
from .disk import Disk
from .errors import (
    ChecksumMismatch,
    UnknownFile,
    UnknownUpload,
    UploadBusy,
    WrongOffset,
    typed,
)
from .folders import check_target, move_to_new, open_folder
from .models import Stored
from .paths import Place, Root

REMEMBERED = 1000

_PART = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_UPLOADS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:40]


@attrs.frozen
class UploadKey:
    """Name an upload: its target, who sends it, and the id that the sender chose."""

    place: Place
    owner: str
    upload: str

    @property
    def prefix(self) -> str:
        """Return how the names of all of this sender's uploads to this target begin."""
        return f"{_digest(self.owner, *self.place.parts)}."

    @property
    def name(self) -> str:
        """Return the name of its file."""
        return self.prefix + _digest(self.upload)


@attrs.define(eq=False)
class Upload(Arriving):
    """Be one upload that is open; every method blocks."""

    key: UploadKey

    def check_offset(self, offset: int) -> None:
        """Refuse a part that does not follow what has arrived. Raises WrongOffset."""
        if offset != self.offset:
            raise WrongOffset(
                f"{self.offset} bytes of {self.key.place} have arrived: go on there, "
                f"not at {offset}"
            )

    def commit(self, sha256: str | None, *, overwrite: bool) -> Stored:
        """Make the file visible, once it is on disk: all of it or nothing.

        Raises ChecksumMismatch, after which nothing is left of it, and AlreadyThere.
        """
        place, found = self.key.place, self.hash.hexdigest()
        if sha256 is not None and sha256 != found:
            self.discard()
            raise ChecksumMismatch(
                f"{place}: the {self.offset} bytes that arrived have the SHA-256 {found}, "
                f"not {sha256}: send them again"
            )
        with (
            typed(lambda: str(place)),
            _open_uploads(place.root) as uploads,
            open_folder(place.folder, make=True) as folder,
        ):
            check_target(folder, place, overwrite=overwrite)
            os.fsync(self.descriptor)
            if overwrite:
                os.rename(self.key.name, place.name, src_dir_fd=uploads, dst_dir_fd=folder)
            else:
                move_to_new(uploads, self.key.name, folder, place.name)
            _sync_folder(folder)
        return Stored(str(place), self.offset, found)

    def discard(self) -> None:
        """Delete what has arrived."""
        with suppress(FileNotFoundError), _open_uploads(self.key.place.root) as uploads:
            os.unlink(self.key.name, dir_fd=uploads)


class Uploads:
    """Own the uploads of one plugin: one request at a time for each."""

    def __init__(self, disk: Disk) -> None:
        """Work on ``disk``."""
        self._disk = disk
        self._busy: set[tuple[Root, str]] = set()
        self._hashes: OrderedDict[tuple[Root, str], tuple[int, hashlib._Hash]] = OrderedDict()

    @asynccontextmanager
    async def open(self, key: UploadKey, *, make: bool) -> AsyncIterator[Upload]:
        """Open an upload, which stays when the context ends unless it is discarded or committed.

        Raises UploadBusy, UnknownUpload unless ``make``, DiskFull.
        """
        slot = (key.place.root, key.name)
        if slot in self._busy:
            raise UploadBusy(
                f"another request is sending this upload of {key.place}: wait for its end",
                retry_after=1.0,
            )
        self._busy.add(slot)
        try:
            upload = await self._disk.run(_open, key, make, self._hashes.pop(slot, None))
            try:
                yield upload
            finally:
                self._remember(slot, upload)
                await self._disk.close(upload.descriptor)
        finally:
            self._busy.discard(slot)

    def _remember(self, slot: tuple[Root, str], upload: Upload) -> None:
        """Spare the next request the reading of what has arrived, as far as memory is cheap."""
        self._hashes[slot] = (upload.offset, upload.hash)
        if len(self._hashes) > REMEMBERED:
            self._hashes.popitem(last=False)


def _open(key: UploadKey, make: bool, known: "tuple[int, hashlib._Hash] | None") -> Upload:
    try:
        with typed(lambda: str(key.place)), _open_uploads(key.place.root, make=make) as uploads:
            descriptor = _open_part(uploads, key, make)
    except UnknownFile:
        if make:
            raise
        raise UnknownUpload(f"nothing of this upload of {key.place} is here: begin anew") from None
    try:
        size = os.fstat(descriptor).st_size
        is_known = known is not None and known[0] == size
        found = known[1] if known is not None and is_known else hash_start(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return Upload(str(key.place), descriptor, found, size, key)


def _open_part(uploads: int, key: UploadKey, make: bool) -> int:
    flags = _PART if make else _PART & ~os.O_CREAT
    descriptor = os.open(key.name, flags, 0o666, dir_fd=uploads)
    if os.fstat(descriptor).st_nlink < 2:
        return descriptor
    # The process died as it made the file visible: what is visible is not to be written.
    os.close(descriptor)
    os.unlink(key.name, dir_fd=uploads)
    return _open_part(uploads, key, make)


@contextmanager
def _open_uploads(root: Root, *, make: bool = False) -> Iterator[int]:
    """Open a root's folder of uploads. Raises OSError.

    One that another user has laid there is refused: that user could change what is in it.
    """
    top = os.open(root.uploads.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if make:
            with suppress(FileExistsError):
                os.mkdir(root.uploads.name, 0o700, dir_fd=top)
        found = os.open(root.uploads.name, _UPLOADS, dir_fd=top)
    finally:
        os.close(top)
    try:
        if os.fstat(found).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, f"{root.uploads} belongs to another user")
        yield found
    finally:
        os.close(found)


def _sync_folder(folder: int) -> None:
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(readable)
    finally:
        os.close(readable)


def discard_all(key: UploadKey) -> None:
    """Delete every upload of one sender to one target; blocks."""
    with suppress(FileNotFoundError), _open_uploads(key.place.root) as uploads:
        for name in os.listdir(uploads):
            if name.startswith(key.prefix):
                os.unlink(name, dir_fd=uploads)


def sweep(root: Root, age: float) -> None:
    """Delete the uploads to which nothing was added for ``age`` seconds; blocks."""
    with suppress(FileNotFoundError), _open_uploads(root) as uploads:
        for name in os.listdir(uploads):
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=uploads, follow_symlinks=False)
                if time.time() - status.st_mtime > age:
                    os.unlink(name, dir_fd=uploads)
