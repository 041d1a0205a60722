"""Move files to, from and between endpoints."""

import json
import uuid
from pathlib import Path
from typing import Any, ClassVar

import attrs
import httpx

from orbit_core import PluginClient
from orbit_core.error_documents import document_error, error_of
from orbit_core.errors import ConnectionLost, reason_of

from .disk import Disk
from .errors import ChecksumMismatch, FileChanged, TicketRefused, WrongKind
from .local import LocalFile, LocalPart, check_absent, local_target
from .paths import Parts, split
from .patience import PATIENCE, Patience
from .transfers import BREAKS, SLOW, Channel, Progress, Receiving, send
from .trees import Here, There, TreeMove


@attrs.frozen
class SessionPlace:
    """Say where a session is, for another endpoint's plugin to be told."""

    endpoint: str
    plugin: str
    sid: str


class StagingClient(PluginClient):
    """Move files to, from and between endpoints, in the session that `register_session` opened.

    A path at the endpoint is relative to the session's directory, or absolute, or below ``~``
    where the endpoint's configuration allows that. ``progress(done, total)`` is called with bytes
    as they move, and must not block.

    A transfer that breaks goes on where it broke, until no byte has moved for ``patience`` seconds;
    called again, by whatever process, it goes on as well. Every file is compared by its SHA-256 and
    appears at its target at once, when it is whole.

    Every method raises OrbitError, such as those in `orbit_staging.errors`, also for what is wrong
    with files of this host; and RuntimeError without a session.
    """

    patience: ClassVar[float] = PATIENCE

    @property
    def place(self) -> SessionPlace:
        """Return where this client's session is."""
        return SessionPlace(self._endpoint or "", self._plugin or "", self._require_session())

    async def put(
        self,
        src: str | Path,
        tgt: str = "",
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Send a file of this host, and return its ``path`` there, ``size`` and ``sha256``.

        A ``tgt`` that is empty or ends with a slash is the directory for it.
        """
        channel = self._channel()
        file = await channel.disk.run(LocalFile.open, Path(src))
        path = _target(tgt, Path(src).name)
        return await send(channel, file, path, overwrite, progress or _silent)

    async def put_folder(
        self,
        src: str | Path,
        tgt: str = "",
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Send a directory of this host, and return its ``path`` there.

        Along with it are the number of ``files``, their ``size``, and ``skipped``: what is there of
        links and special files, which never go along. A ``tgt`` that is empty or ends with a slash
        is the directory for it. Given again, it goes on where it was: what is there already, with
        the same SHA-256, is not sent again.
        """
        channel = self._channel()
        here = await Here.at(src, channel.disk)
        there = There(self, _target(tgt, here.root.path.name))

        async def move(parts: Parts, see: Progress) -> None:
            await send(channel, await here.open(parts), there.path(parts), overwrite, see)

        return await TreeMove(here, there, move, overwrite, progress or _silent).run()

    async def health(self) -> dict[str, Any]:
        """Return how the plugin is."""
        return dict(await self._request("GET", "health"))

    async def get(  # type: ignore[override]  # the documented name; the other is for routes
        self,
        src: str,
        tgt: str | Path = ".",
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Receive a file, and return its ``path`` here, ``size`` and ``sha256``.

        A ``tgt`` that is a directory gets it under its own name.
        """
        # The name that was asked for: an endpoint must not choose what is written here.
        target = await self._channel().disk.run(local_target, tgt, _name(src))
        return await self._receive(src, target, overwrite, progress or _silent)

    async def get_folder(
        self,
        src: str,
        tgt: str | Path = ".",
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Receive a directory, and return what `put_folder` does, with its ``path`` here.

        A ``tgt`` that is a directory gets it under its own name.
        """
        disk = self._channel().disk
        here = await Here.at(await disk.run(local_target, tgt, _name(src)), disk)
        there = There(self, src)

        async def move(parts: Parts, see: Progress) -> None:
            await here.make(parts[:-1])
            await self._receive(there.path(parts), here.path(parts), overwrite, see)

        return await TreeMove(there, here, move, overwrite, progress or _silent).run()

    async def _receive(
        self, src: str, target: Path, overwrite: bool, progress: Progress
    ) -> dict[str, Any]:
        """Receive a file as ``target``."""
        channel = self._channel()
        status = await self.stat(src)
        if status["type"] != "file":
            raise WrongKind(
                f"{status['path']} is no plain file: a directory comes with get_folder or cp -r"
            )
        if not overwrite:
            await channel.disk.run(check_absent, target)
        identity = f"{channel.url} {status['path']} {status['etag']}"
        part = await channel.disk.run(LocalPart.open, target, identity)
        try:
            receiving = Receiving(channel, part, src, status, progress)
            sha256 = await receiving.run(overwrite=overwrite)
        except (FileChanged, ChecksumMismatch):
            await channel.disk.run(part.discard)
            raise
        finally:
            await channel.disk.close(part.descriptor)
        return {"path": str(target), "size": status["size"], "sha256": sha256}

    async def copy(
        self,
        src: str,
        to: Any,
        tgt: str = "",
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Copy a file to another endpoint, in the session of the client ``to``, not through here.

        The other endpoint fetches it, with a ticket for this one file that is asked for here.
        """
        place: SessionPlace = to.place
        path = _target(tgt, Path(src).name)
        watch = _Watch(Patience(self.patience), progress or _silent)
        while True:
            try:
                grant = await self._ask("grant", {"path": src, "endpoint": place.endpoint})
                source = {"endpoint": self._endpoint, "plugin": self._plugin}
                target = {"path": path, "overwrite": overwrite}
                return await self._follow(place, {**source, **grant, **target}, watch)
            except (*BREAKS, TicketRefused) as error:
                await watch.patience.bear(error)

    async def copy_folder(
        self,
        src: str,
        to: Any,
        tgt: str = "",
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Copy a directory as `copy` does a file, and return what `put_folder` does."""
        other = self._at(to.place)
        here, there = There(self, src), There(other, _target(tgt, _name(src)))

        async def move(parts: Parts, see: Progress) -> None:
            await self.copy(here.path(parts), other, there.path(parts), overwrite, see)

        return await TreeMove(here, there, move, overwrite, progress or _silent).run()

    def _at(self, place: SessionPlace) -> "StagingClient":
        """Return a client of the same caller in another session."""
        url = f"/{place.endpoint}/{place.plugin}"
        found = StagingClient(self._http, url, None, place.endpoint, place.plugin)
        found._sid = place.sid
        return found

    async def _follow(
        self, place: SessionPlace, wanted: dict[str, Any], watch: "_Watch"
    ) -> dict[str, Any]:
        url = f"/{place.endpoint}/{place.plugin}/copy/{place.sid}"
        timeout = httpx.Timeout(30.0, read=SLOW)
        async with self._http.stream("POST", url, json=wanted, timeout=timeout) as response:
            if response.status_code >= 400:
                await response.aread()
                raise error_of(response)
            async for line in response.aiter_lines():
                news = json.loads(line)
                if "copied" in news:
                    watch.see(news["copied"], news["size"])
                elif "error" in news:
                    raise document_error(news["status_code"], line.encode())
                else:
                    watch.see(news["size"], news["size"])
                    return dict(news)
        raise ConnectionLost(f"the copy to {place.endpoint} ended without a result")

    async def stat(self, path: str, checksum: bool = False) -> dict[str, Any]:
        """Return ``path``, ``type``, ``size``, ``modified`` and ``etag``; a ``sha256`` if asked."""
        return await self._ask("stat", {"path": path, "checksum": checksum})

    async def mkdir(self, path: str) -> dict[str, Any]:
        """Make a directory with its parents; one that is there is no error."""
        return await self._ask("mkdir", {"path": path})

    async def delete(self, path: str, recursive: bool = False) -> dict[str, Any]:
        """Delete a file or an empty directory; a full one if ``recursive``."""
        return await self._ask("delete", {"path": path, "recursive": recursive})

    async def discard(self, path: str) -> dict[str, Any]:
        """Delete what an unfinished upload to ``path`` has left."""
        return await self._ask("discard", {"path": path})

    async def list(self, path: str = "") -> dict[str, Any]:
        """Return ``path``, and its ``entries`` by name, each with ``type`` and ``size``."""
        found = await self._ask("list", {"path": path})
        entries, after = found["entries"], found["next"]
        while after is not None:
            page = await self._ask("list", {"path": path, "after": after})
            entries += page["entries"]
            after = page["next"]
        return {"path": found["path"], "entries": entries}

    def _channel(self) -> Channel:
        url = self._url(f"files/{self._require_session()}")
        return Channel(self._http, url, self._ask, Disk(), self.patience)

    async def _ask(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        """Post a document; whatever the plugin takes so may be repeated with its key."""
        headers = {"Orbit-Timeout": f"{SLOW:.0f}", "Idempotency-Key": uuid.uuid4().hex}
        url = self._url(f"{route}/{self._require_session()}")
        timeout = httpx.Timeout(30.0, read=SLOW)
        try:
            response = await self._http.post(url, json=body, headers=headers, timeout=timeout)
        except httpx.TransportError as error:
            raise ConnectionLost(f"POST {url}: {reason_of(error)}") from error
        if response.status_code >= 400:
            self._raise(response, f"POST {route}")
        return dict(response.json())


@attrs.frozen
class _Watch:
    """Pass progress on, and note that something moves."""

    patience: Patience
    progress: Progress

    def see(self, done: int, total: int) -> None:
        self.patience.see(done)
        self.progress(done, total)


def _name(src: str) -> str:
    """Return what a file or directory at an endpoint is called; a top has no name."""
    parts = split(src)
    return "" if parts in ((), ("~",)) else parts[-1]


def _target(tgt: str, name: str) -> str:
    """Return where at an endpoint something is to be that is called ``name`` at its source."""
    return f"{tgt}{name}" if tgt == "" or tgt.endswith("/") else tgt


def _silent(done: int, total: int) -> None:
    """Tell nobody."""
