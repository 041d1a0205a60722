"""Move one file between this host and an endpoint, taking it up again wherever it breaks."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import quote

import attrs
import httpx

from orbit_core.error_documents import error_of

from .digests import check_sha256
from .disk import Disk, pour
from .errors import ChecksumMismatch, FileChanged
from .local import LocalFile, LocalPart
from .patience import PASSING, Patience

Progress = Callable[[int, int], Any]
"""Be told how many bytes of how many have been moved; it must not block."""

SLOW = 3600.0
"""Seconds that the sum of a large file may take; what takes longer is found when asked again."""

TIMEOUT = httpx.Timeout(30.0, read=600.0, write=120.0)

BREAKS = (httpx.TransportError, *PASSING)
"""Failures that may pass, those of a connection of one's own among them."""


class Ask(Protocol):
    """Send a JSON document to one of the plugin's routes in the client's session."""

    def __call__(self, route: str, body: dict[str, Any]) -> Awaitable[dict[str, Any]]:
        """Return the answer. Raises OrbitError."""
        ...


@attrs.frozen(eq=False)
class Channel:
    """Reach the plugin: ``url`` is where the session's files are."""

    http: httpx.AsyncClient
    url: str
    ask: Ask
    disk: Disk
    patience: float

    def file(self, path: str) -> str:
        """Return the URL of a file; a slash at the beginning is kept from being lost."""
        return f"{self.url}/{quote(path, safe='/~') if path[:1] != '/' else quote(path, safe='')}"


@attrs.define(eq=False)
class Sending:
    """Send one file."""

    channel: Channel
    file: LocalFile
    path: str
    overwrite: bool
    progress: Progress

    async def run(self) -> dict[str, Any]:
        """Send it, and return where it is."""
        patience = Patience(self.channel.patience)
        name = {"path": self.path, "upload": self.file.upload}
        while True:
            try:
                offset = (await self.channel.ask("arrived", name))["offset"]
                patience.see(offset)
                await self.channel.disk.run(self.file.seek, offset)
                await self._send_rest()
                sha256 = await self.channel.disk.run(self.file.check)
                wanted = {**name, "sha256": sha256, "overwrite": self.overwrite}
                return await self.channel.ask("commit", wanted)
            except BREAKS as error:
                await patience.bear(error)

    async def _send_rest(self) -> None:
        response = await self.channel.http.put(
            self.channel.file(self.path),
            params={
                "upload": self.file.upload,
                "offset": self.file.offset,
                "overwrite": "true" if self.overwrite else "false",
            },
            headers={"Content-Length": str(self.file.size - self.file.offset)},
            content=self._parts(),
            timeout=TIMEOUT,
        )
        if response.status_code >= 400:
            raise error_of(response)

    async def _parts(self) -> AsyncIterator[bytes]:
        self.progress(self.file.offset, self.file.size)
        while self.file.offset < self.file.size:
            yield await self.channel.disk.run(self.file.read)
            self.progress(self.file.offset, self.file.size)


async def send(
    channel: Channel, file: LocalFile, path: str, overwrite: bool, progress: Progress
) -> dict[str, Any]:
    """Send an open file, close it, and return where it is. Raises OrbitError."""
    try:
        return await Sending(channel, file, path, overwrite, progress).run()
    finally:
        await channel.disk.close(file.descriptor)


@attrs.define(eq=False)
class Receiving:
    """Receive one file of the given ``status``."""

    channel: Channel
    part: LocalPart
    path: str
    status: dict[str, Any]
    progress: Progress

    async def run(self, *, overwrite: bool) -> str:
        """Receive it, compare its sum, make it visible, and return the sum."""
        patience = Patience(self.channel.patience)
        while True:
            try:
                await self._receive_rest(patience)
                last = await self.channel.ask("stat", {"path": self.path, "checksum": True})
                break
            except BREAKS as error:
                await patience.bear(error)
        if last["etag"] != self.status["etag"]:
            raise FileChanged(f"{last['path']} changed while it was received: try again")
        found = self.part.hash.hexdigest()
        if check_sha256(last["sha256"]) != found:
            raise ChecksumMismatch(
                f"what arrived of {last['path']} has the SHA-256 {found}, not {last['sha256']}"
            )
        await self.channel.disk.run(lambda: self.part.commit(overwrite=overwrite))
        return found

    async def _receive_rest(self, patience: Patience) -> None:
        size = self.status["size"]

        async def write(parts: list[bytes]) -> None:
            await self.channel.disk.run(self.part.append, parts)
            if self.part.offset > size:
                raise FileChanged(f"{self.path} is longer than it said: try again")
            patience.see(self.part.offset)
            self.progress(self.part.offset, size)

        self.progress(self.part.offset, size)
        if self.part.offset < size:
            headers = {"If-Match": self.status["etag"]}
            if self.part.offset:
                headers["Range"] = f"bytes={self.part.offset}-"
            request = self.channel.http.stream(
                "GET", self.channel.file(self.path), headers=headers, timeout=TIMEOUT
            )
            async with request as response:
                if response.status_code >= 400:
                    await response.aread()
                    raise error_of(response)
                await pour(response.aiter_raw(), write)
        if self.part.offset != size:
            raise FileChanged(f"{self.path} changed while it was received: try again")
