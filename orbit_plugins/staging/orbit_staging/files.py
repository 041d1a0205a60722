"""Store files, describe them, and take uploads and copies up where they broke."""

import base64
import os
import secrets
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
from starlette.requests import Request

from orbit_core.errors import BodyTooLarge, InvalidBody

from .digests import Digests, check_sha256
from .disk import Disk, pour
from .errors import AlreadyThere, DiskFull, FileChanged, UnknownFile, UnknownUpload, typed
from .fetching import Fetch, Source
from .folders import check_target, describe, look, open_file, open_folder
from .models import Arrived, CommitBody, Content, CopyBody, PutBody, Status, Stored
from .paths import Place
from .patience import PATIENCE
from .replies import Report, Touch
from .uploads import Upload, UploadKey, Uploads, discard_all

SMALL = 8 * 1024 * 1024
"""Bytes of a file that goes into one JSON document."""


@attrs.frozen(eq=False)
class Body:
    """Hold a request's body: its parts as they come, and the bytes that it announces (0: none)."""

    parts: AsyncIterable[bytes]
    size: int
    touch: Touch

    @classmethod
    def of(cls, request: Request, touch: Touch) -> "Body":
        """Return the body of a request."""
        announced = request.headers.get("content-length", "")
        size = int(announced) if announced.isdecimal() and announced.isascii() else 0
        return cls(request.stream(), size, touch)


@attrs.frozen(eq=False)
class Files:
    """Do the work on files that takes more than one step.

    Everything raises what `orbit_staging.errors` has for paths and disks. ``patience`` is for how
    many seconds a copy that makes no progress is tried again.
    """

    disk: Disk = attrs.field(factory=Disk)
    digests: Digests = attrs.field(factory=Digests)
    uploads: Uploads = attrs.field(
        default=attrs.Factory(lambda self: Uploads(self.disk), takes_self=True)
    )
    patience: float = PATIENCE

    async def stat(self, place: Place, *, checksum: bool) -> Status:
        """Describe what is at a place; with ``checksum``, a file's SHA-256 as well."""
        return await self.disk.run(self._stat, place, checksum)

    def _stat(self, place: Place, checksum: bool) -> Status:
        if not checksum:
            return describe(place, look(place))
        descriptor, status = open_file(place)
        try:
            return describe(place, status, self.digests.of_file(descriptor, status, str(place)))
        finally:
            os.close(descriptor)

    async def get(self, place: Place) -> Content:
        """Return a small file. Raises BodyTooLarge."""
        content = await self.disk.run(_read_small, place)
        return Content(str(place), len(content), base64.b64encode(content).decode())

    async def put(self, place: Place, owner: str, wanted: PutBody) -> Stored:
        """Store a small file. Raises InvalidBody, AlreadyThere."""
        try:
            content = base64.b64decode(wanted.content, validate=True)
        except ValueError as error:
            raise InvalidBody(f"'content' is not base64: {error}") from None
        async with self._passing(place, owner, overwrite=wanted.overwrite) as upload:
            await self.disk.run(upload.append, [content])
            return await self._commit(upload, None, overwrite=wanted.overwrite)

    async def store(
        self, place: Place, owner: str, body: "Body", sha256: str | None, *, overwrite: bool
    ) -> Stored:
        """Store a body as a file, all or nothing. Raises ChecksumMismatch, AlreadyThere."""
        async with self._passing(place, owner, overwrite=overwrite) as upload:
            await self._append(upload, body)
            return await self._commit(upload, sha256, overwrite=overwrite)

    async def receive(self, key: UploadKey, offset: int, body: "Body") -> Arrived:
        """Add a body to an upload; whatever arrives of it stays. Raises WrongOffset."""
        async with self.uploads.open(key, make=True) as upload:
            upload.check_offset(offset)
            await self._append(upload, body)
            return Arrived(upload.offset)

    async def arrived(self, key: UploadKey) -> Arrived:
        """Return how much of an upload has arrived, nothing if it is not known."""
        try:
            async with self.uploads.open(key, make=False) as upload:
                return Arrived(upload.offset)
        except UnknownUpload:
            return Arrived(0)

    async def commit(self, key: UploadKey, wanted: CommitBody) -> Stored:
        """Make an upload visible; one that is visible already is no error.

        Raises ChecksumMismatch, AlreadyThere, UnknownUpload.
        """
        sha256 = check_sha256(wanted.sha256)
        try:
            async with self.uploads.open(key, make=False) as upload:
                return await self._commit_or_find(upload, sha256, overwrite=wanted.overwrite)
        except UnknownUpload:
            found = await self._found(key.place, sha256)
            if found is None:
                raise
            return found

    async def _commit_or_find(self, upload: Upload, sha256: str, *, overwrite: bool) -> Stored:
        """Make an upload visible, or throw it away if the same file is there already."""
        try:
            return await self._commit(upload, sha256, overwrite=overwrite)
        except AlreadyThere:
            found = await self._found(upload.key.place, sha256)
            if found is None:
                raise
            await self.disk.run(upload.discard)
            return found

    async def _found(self, place: Place, sha256: str) -> Stored | None:
        """Return a file that has this sum already: the reply to its commit was lost."""
        try:
            status = await self.stat(place, checksum=True)
        except (UnknownFile, FileChanged):
            return None
        if status.sha256 != sha256 or status.size is None:
            return None
        return Stored(status.path, status.size, sha256)

    async def discard(self, key: UploadKey) -> None:
        """Delete all that its sender has sent for a place and not made visible."""
        await self.disk.run(discard_all, key)

    async def check_target(self, place: Place, *, overwrite: bool) -> None:
        """Refuse, before anything is sent, a target that could not be written in the end."""
        await self.disk.run(_check_target, place, overwrite)

    async def fetch(
        self, hub: Any, wanted: CopyBody, place: Place, owner: str, touch: Touch, report: Report
    ) -> Stored:
        """Copy a file from another endpoint; what a copy that broke has fetched is not lost."""
        source = Source.of(hub, wanted)
        status = await source.look(checksum=False)
        identity = f"{wanted.endpoint}/{wanted.plugin}{status.path} {status.etag}"
        key = UploadKey(place, owner, identity)
        async with self.uploads.open(key, make=True) as upload:
            await self.disk.run(_check_room, upload, (status.size or 0) - upload.offset)
            fetch = Fetch(self.disk, source, upload, touch, self.patience)
            return await fetch.run(status, report, overwrite=wanted.overwrite)

    async def _append(self, upload: Upload, body: "Body") -> None:
        async def write(gathered: list[bytes]) -> None:
            await body.touch()
            await self.disk.run(upload.append, gathered)

        await self.disk.run(_check_room, upload, body.size)
        await pour(body.parts, write)

    async def _commit(self, upload: Upload, sha256: str | None, *, overwrite: bool) -> Stored:
        return await self.disk.run(lambda: upload.commit(sha256, overwrite=overwrite))

    @asynccontextmanager
    async def _passing(self, place: Place, owner: str, *, overwrite: bool) -> AsyncIterator[Upload]:
        """Open an upload of which nothing is left unless it is committed."""
        await self.check_target(place, overwrite=overwrite)
        key = UploadKey(place, owner, secrets.token_hex(16))
        async with self.uploads.open(key, make=True) as upload:
            try:
                yield upload
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self.disk.run(upload.discard)
                raise


def _read_small(place: Place) -> bytes:
    descriptor, status = open_file(place)
    with os.fdopen(descriptor, "rb") as file, typed(lambda: str(place)):
        if status.st_size > SMALL:
            raise BodyTooLarge(
                f"{place} has {status.st_size} bytes; up to {SMALL} go into a document: "
                "use GET files/"
            )
        return file.read(SMALL)


def _check_target(place: Place, overwrite: bool) -> None:
    try:
        with open_folder(place.folder) as folder:
            check_target(folder, place, overwrite=overwrite)
    except UnknownFile:
        return  # its directories are made with it


def _check_room(upload: Upload, size: int) -> None:
    """Refuse at once what does not fit. Raises DiskFull."""
    found = os.fstatvfs(upload.descriptor)
    room = found.f_bavail * found.f_frsize
    if size > room:
        raise DiskFull(
            f"{upload.key.place} needs {size} bytes more and there are {room}: free some"
        )
