"""Send files, and the progress of long work, as responses."""

import hashlib
import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectSendStream
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from orbit_core.errors import OrbitError
from orbit_core.values import to_data
from orbit_core.web import error_reply

from .digests import BLOCK, Digests, digest_field
from .disk import Disk
from .errors import FileChanged, typed
from .folders import Identity, etag_of, open_file
from .paths import Place
from .ranges import parse_range

Touch = Callable[[], Awaitable[Any]]
"""Note that the session is in use. Raises OrbitError once it is over."""

REPORT_INTERVAL = 0.2
"""Seconds between the lines of a report."""


class FileReply(Response):
    """Send an open file, or one range of it, and close it."""

    def __init__(self, disk: Disk, digests: Digests, place: Place, opened: "Opened") -> None:
        """Read on ``disk``; the sum of a file that is sent whole goes to ``digests``."""
        self._disk = disk
        self._digests = digests
        self._place = place
        self._opened = opened
        self.status_code = 200 if opened.range is None else 206
        self.background = None
        self.body = b""
        self.init_headers(opened.headers(digests.get(opened.status)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a file that changes meanwhile ends the response before its end."""
        opened = self._opened
        try:
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
            else:
                await self._send_body(send)
        finally:
            await self._disk.close(opened.descriptor)

    async def _send_body(self, send: Send) -> None:
        """Send the bytes; the next block is read while one is on its way."""
        ready, taken = anyio.create_memory_object_stream[bytes](1)
        errors: list[OrbitError] = []
        async with anyio.create_task_group() as group, taken:
            group.start_soon(self._read_all, ready, errors)
            try:
                async for block in taken:
                    await send({"type": "http.response.body", "body": block, "more_body": True})
            except OrbitError as error:
                errors.append(error)
                group.cancel_scope.cancel()
        if errors:
            raise errors[0]
        await send({"type": "http.response.body", "body": b""})

    async def _read_all(
        self, ready: MemoryObjectSendStream[bytes], errors: list[OrbitError]
    ) -> None:
        opened = self._opened
        offset, stop = opened.range or (0, opened.status.st_size)
        is_wanted = opened.range is None and self._digests.get(opened.status) is None
        found = hashlib.sha256() if is_wanted else None
        async with ready:
            try:
                while offset < stop:
                    size = min(BLOCK, stop - offset)
                    block = await self._disk.run(self._read, size, offset, found)
                    await opened.touch()
                    await ready.send(block)
                    offset += len(block)
                if found is not None:
                    await self._disk.run(self._keep, found.hexdigest())
            except OrbitError as error:
                errors.append(error)

    def _read(self, size: int, offset: int, found: "hashlib._Hash | None") -> bytes:
        with typed(lambda: str(self._place)):
            block = os.pread(self._opened.descriptor, size, offset)
        if not block:
            raise FileChanged(f"{self._place} became shorter while it was read")
        if found is not None:
            found.update(block)
        return block

    def _keep(self, sha256: str) -> None:
        now = os.fstat(self._opened.descriptor)
        if Identity.of(now) == Identity.of(self._opened.status):
            self._digests.put(now, sha256)


class Opened:
    """Hold a file that was opened for one request."""

    def __init__(
        self, descriptor: int, status: os.stat_result, headers: Headers, touch: Touch
    ) -> None:
        """Read what the request's headers want of it.

        Raises FileChanged for another ``If-Match``, RangeNotSatisfiable.
        """
        self.descriptor = descriptor
        self.status = status
        self.touch = touch
        self.etag = etag_of(status)
        if headers.get("if-match", self.etag) not in (self.etag, "*"):
            raise FileChanged(f"the file is not the one with the ETag {headers['if-match']} now")
        is_same = headers.get("if-range", self.etag) == self.etag
        self.range = parse_range(headers.get("range"), status.st_size) if is_same else None

    def headers(self, sha256: str | None) -> dict[str, str]:
        """Return the response's headers."""
        size = self.status.st_size
        start, stop = self.range or (0, size)
        found = {
            "Content-Type": "application/octet-stream",
            "Content-Disposition": "attachment",
            "Content-Length": str(stop - start),
            "Accept-Ranges": "bytes",
            "ETag": self.etag,
        }
        if self.range is not None:
            found["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        if sha256 is not None:
            found["Repr-Digest"] = digest_field(sha256)
        return found


async def open_reply(
    disk: Disk, digests: Digests, place: Place, request: Request, touch: Touch
) -> FileReply:
    """Open a file and return the response that sends it.

    Raises UnknownFile, WrongKind, PathRefused, FileChanged, RangeNotSatisfiable.
    """
    descriptor, status = await disk.run(open_file, place)
    try:
        return FileReply(disk, digests, place, Opened(descriptor, status, request.headers, touch))
    except BaseException:
        await disk.close(descriptor)
        raise


Report = Callable[[int, int], Awaitable[None]]
"""Tell how many bytes of how many have been moved."""


class ReportReply(Response):
    """Send the progress of long work: lines of JSON, the last with the result or the error.

    The work begins when the response does, and is cancelled when its client leaves.
    """

    def __init__(self, work: Callable[[Report], Awaitable[Any]]) -> None:
        """Do ``work``, which is given what it reports to."""
        self._work = work
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Work, and tell of it."""
        start = {"status": 200, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        last = 0.0

        async def report(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= REPORT_INTERVAL:
                last = time.monotonic()
                line = _line({"copied": done, "size": total})
                await send({"type": "http.response.body", "body": line, "more_body": True})

        try:
            ending = _line(to_data(await self._work(report)))
        except OrbitError as error:
            ending = bytes(error_reply(error).body) + b"\n"
        await send({"type": "http.response.body", "body": ending})


def _line(data: Any) -> bytes:
    return json.dumps(data).encode() + b"\n"
