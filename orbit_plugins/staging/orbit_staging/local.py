"""Read and write the client's own files; every method blocks."""

import hashlib
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

import attrs

from .digests import BLOCK, Arriving, hash_start
from .errors import AlreadyThere, FileChanged, WrongKind, typed
from .folders import Identity, etag_of, move_to_new


@attrs.define(eq=False)
class LocalFile:
    """Be a file that is being sent; its sum is taken as it is read."""

    path: Path
    descriptor: int
    status: os.stat_result
    hash: "hashlib._Hash" = attrs.field(factory=hashlib.sha256)
    offset: int = 0

    @classmethod
    def open(cls, path: Path) -> "LocalFile":
        """Open a plain file. Raises UnknownFile, WrongKind, PathRefused."""
        with typed(lambda: str(path)):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise WrongKind(f"{path} is no plain file: a directory goes with put_folder or cp -r")
        return cls(path, descriptor, status)

    @property
    def size(self) -> int:
        """Return the size that it had when it was opened."""
        return self.status.st_size

    @property
    def upload(self) -> str:
        """Return the id of its upload: the same for the same file, also in another process."""
        identity = f"{socket.gethostname()} {self.path.absolute()} {self.status.st_dev}"
        return hashlib.sha256(f"{identity} {etag_of(self.status)}".encode()).hexdigest()

    def seek(self, offset: int) -> None:
        """Go on at ``offset``, as if all before it had been read."""
        self.hash = hash_start(self.descriptor, offset)
        self.offset = offset

    def read(self) -> bytes:
        """Return the next block. Raises FileChanged if the file became shorter."""
        with typed(lambda: str(self.path)):
            size = min(BLOCK, self.size - self.offset)
            block = os.pread(self.descriptor, size, self.offset)
        if not block:
            raise FileChanged(f"{self.path} became shorter while it was sent")
        self.hash.update(block)
        self.offset += len(block)
        return block

    def check(self) -> str:
        """Return the sum of what was read. Raises FileChanged if the file did not hold still."""
        if Identity.of(os.fstat(self.descriptor)) != Identity.of(self.status):
            raise FileChanged(f"{self.path} changed while it was sent: try again")
        return self.hash.hexdigest()

    def close(self) -> None:
        """Close it."""
        os.close(self.descriptor)


@attrs.define(eq=False)
class LocalPart(Arriving):
    """Be a file that is arriving, beside its target and hidden until it is whole."""

    target: Path
    path: Path

    @classmethod
    def open(cls, target: Path, identity: str) -> "LocalPart":
        """Open what has arrived already of a file of this ``identity``."""
        part = hashlib.sha256(f"{target.name} {identity}".encode()).hexdigest()[:32]
        path = target.with_name(f".{part}.orbit-part")
        with typed(lambda: str(target)):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o666)
        size = os.fstat(descriptor).st_size
        found = hash_start(descriptor, size)
        return cls(str(target), descriptor, found, size, target, path)

    def commit(self, *, overwrite: bool) -> None:
        """Make it visible, once it is on disk. Raises AlreadyThere."""
        with typed(lambda: str(self.target)):
            os.fsync(self.descriptor)
            if overwrite:
                self.path.replace(self.target)
            else:
                move_to_new(None, str(self.path), None, str(self.target))

    def discard(self) -> None:
        """Delete it."""
        with suppress(FileNotFoundError):
            self.path.unlink()

    def close(self) -> None:
        """Close it; what has arrived stays for another time."""
        os.close(self.descriptor)


def check_absent(target: Path) -> None:
    """Refuse a target that is there. Raises AlreadyThere."""
    if os.path.lexists(target):
        raise AlreadyThere(
            f"{target} is there already: choose another name, or overwrite it (--overwrite)"
        )


def local_target(target: str | Path, name: str) -> Path:
    """Return the file that a download makes: ``name`` in ``target`` if that is a directory."""
    found = Path(target)
    return found / name if found.is_dir() else found
