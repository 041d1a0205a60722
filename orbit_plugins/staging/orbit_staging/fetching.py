"""Fetch a file from another endpoint into an upload, over this host's own link."""

from typing import Any

import attrs

from orbit_core.error_documents import error_of
from orbit_core.models import check_name
from orbit_core.values import as_model

from .digests import check_sha256
from .disk import Disk, pour
from .errors import FileChanged
from .models import CopyBody, Status, Stored
from .patience import PASSING, Patience
from .replies import Report, Touch
from .tickets import HEADER
from .uploads import Upload

SLOW = 3600.0
"""Seconds that the sum of a large file may take; what takes longer is found when asked again."""


@attrs.frozen
class Source:
    """Be the file that a ticket is for, at another endpoint."""

    http: Any
    url: str
    ticket: str

    @classmethod
    def of(cls, hub: Any, wanted: CopyBody) -> "Source":
        """Return what a copy is to be fetched from. Raises InvalidName."""
        endpoint = check_name(wanted.endpoint, "endpoint name")
        plugin = check_name(wanted.plugin, "plugin instance")
        return cls(hub.http, f"/{endpoint}/{plugin}/granted", wanted.ticket)

    async def look(self, *, checksum: bool) -> Status:
        """Return what the file is. Raises OrbitError."""
        response = await self.http.get(
            f"{self.url}/stat",
            params={"checksum": "true" if checksum else "false"},
            headers={HEADER: self.ticket, "Orbit-Timeout": f"{SLOW:.0f}"},
            timeout=SLOW,
        )
        if response.status_code >= 400:
            raise error_of(response)
        return as_model(response.json(), Status, "status")

    def read(self, offset: int, etag: str) -> Any:
        """Return the response with the file's bytes from ``offset`` on, to be entered."""
        headers = {HEADER: self.ticket, "Range": f"bytes={offset}-", "If-Match": etag}
        return self.http.stream("GET", self.url, headers=headers)


@attrs.frozen
class Fetch:
    """Copy one file, taking it up again where it breaks."""

    disk: Disk
    source: Source
    upload: Upload
    touch: Touch
    patience: float

    async def run(self, status: Status, report: Report, *, overwrite: bool) -> Stored:
        """Fetch the file of this ``status``, compare its sum, and make it visible.

        Raises FileChanged, ChecksumMismatch, DiskFull, AlreadyThere, and what the source raises.
        """
        patience = Patience(self.patience)
        while True:
            try:
                await self._read(status, report, patience)
                last = await self.source.look(checksum=True)
                break
            except PASSING as error:
                await patience.bear(error)
        if last.etag != status.etag or last.sha256 is None:
            raise FileChanged(f"{last.path} changed while it was copied: try again")
        sha256 = check_sha256(last.sha256)
        return await self.disk.run(lambda: self.upload.commit(sha256, overwrite=overwrite))

    async def _read(self, status: Status, report: Report, patience: Patience) -> None:
        size = status.size or 0

        async def write(parts: list[bytes]) -> None:
            await self.disk.run(self.upload.append, parts)
            if self.upload.offset > size:
                raise FileChanged(f"{status.path} is longer than it said: try again")
            patience.see(self.upload.offset)
            await self.touch()
            await report(self.upload.offset, size)

        if self.upload.offset < size:
            async with self.source.read(self.upload.offset, status.etag) as response:
                if response.status_code >= 400:
                    await response.aread()
                    raise error_of(response)
                await pour(response.aiter_raw(), write)
        if self.upload.offset != size:
            raise FileChanged(f"{status.path} changed while it was copied: try again")
