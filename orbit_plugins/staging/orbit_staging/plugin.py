"""Serve files on an endpoint: up, down, and across to another one."""

import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import anyio
from starlette.requests import Request
from starlette.routing import BaseRoute

from orbit_core import HostInfo, HostRole, Plugin, hookimpl
from orbit_core.context import PluginContext
from orbit_core.errors import BadRequest, ConfigError
from orbit_core.models import UIConfig, check_name
from orbit_core.web import flag_parameter, integer_parameter, model_body, principal_of, takes

from .digests import read_digest
from .files import Body, Files
from .folders import check_readable, delete, list_folder, make_folder
from .models import (
    Arrived,
    CommitBody,
    Content,
    CopyBody,
    DeleteBody,
    Deleted,
    GetBody,
    GrantBody,
    ListBody,
    Listing,
    Made,
    MakeBody,
    PutBody,
    Settings,
    StatBody,
    Status,
    Stored,
    Ticket,
    UploadBody,
)
from .paths import Place, Places, Root, may_use
from .replies import FileReply, ReportReply, Touch, open_reply
from .session import SessionFolders, StagingSession
from .tickets import HEADER, LIFE, Grant, Tickets
from .uploads import UploadKey, sweep

logger = logging.getLogger(__name__)

SWEEP_INTERVAL = 3600.0
"""Seconds between looks for uploads that nobody resumes."""


class StagingPlugin(Plugin):
    """Move files of any size to, from and between endpoints.

    The end of a session deletes its files, so none ends for idleness within a week.
    """

    plugin_name: ClassVar[str] = "staging"
    session_class = StagingSession
    version: ClassVar[str] = "0.1.0"
    session_ttl: ClassVar[float] = 7 * 24 * 3600
    ui_config: ClassVar[UIConfig | dict[str, Any] | None] = UIConfig(
        title="Staging", icon="folder", description="Move files to, from and between endpoints."
    )
    roots: list[tuple[Root, list[str]]]
    folders: SessionFolders
    home: Path

    def __init__(self, context: PluginContext, instance_name: str | None = None) -> None:
        """Declare the routes."""
        super().__init__(context, instance_name)
        self.files = Files()
        self.tickets = Tickets()
        self._settings = Settings()
        self.add_route_put("files/{sid}/{path:path}", self._store)
        self.add_route_get("files/{sid}/{path:path}", self._send)
        self.add_route_post("put/{sid}", self._put, idempotent=True)
        self.add_route_post("get/{sid}", self._get)
        self.add_route_post("list/{sid}", self._list)
        self.add_route_post("stat/{sid}", self._stat)
        self.add_route_post("mkdir/{sid}", self._mkdir, idempotent=True)
        self.add_route_post("delete/{sid}", self._delete, idempotent=True)
        self.add_route_post("arrived/{sid}", self._arrived)
        self.add_route_post("commit/{sid}", self._commit, idempotent=True)
        self.add_route_post("discard/{sid}", self._discard, idempotent=True)
        self.add_route_post("grant/{sid}", self._grant)
        self.add_route_post("copy/{sid}", self._copy)
        self.add_route_get("granted", self._send_granted)
        self.add_route_get("granted/stat", self._stat_granted)

    @classmethod
    @hookimpl
    def is_enabled(cls, host: HostInfo) -> bool:
        """Decline the bridge: it holds everybody's tokens and nobody's data."""
        return host.role is not HostRole.BRIDGE

    @hookimpl
    async def register_routes(self, context: PluginContext) -> Iterable[BaseRoute]:
        """Begin, and look after what is left behind."""
        routes = await super().register_routes(context)
        context.background(self._tidy)
        return routes

    async def start(self) -> None:
        """Read the settings. Raises ConfigError for a root that cannot be one."""
        self._settings = self.context.settings(Settings)
        base = self._settings.directory or self.context.directory
        await self.files.disk.run(self._prepare, base)

    def _prepare(self, base: Path) -> None:
        self.home = Path.home()
        self.folders = SessionFolders(Path(base).expanduser().resolve())
        self.roots = [
            (_read_root(text, owners, self.context.directory), owners)
            for text, owners in self._settings.roots.items()
        ]
        self.folders.clear()

    def _create_session(self, sid: str, **settings: Any) -> StagingSession:
        clear = partial(self.context.background, self._clear)
        return StagingSession(sid, self.folders, self.files.disk, clear, **settings)

    async def _clear(self) -> None:
        await self.files.disk.run(self.folders.clear)

    async def _tidy(self) -> None:
        while True:
            await self.sweep()
            await anyio.sleep(SWEEP_INTERVAL)

    async def sweep(self) -> None:
        """Delete the uploads that nobody resumed in time."""
        await self.files.disk.run(self._sweep_roots)

    def _sweep_roots(self) -> None:
        found = [Root.of_session(folder) for folder in self.folders.folder("").glob("*")]
        for root in [*found, *(root for root, _ in self.roots)]:
            try:
                sweep(root, self._settings.keep_uploads)
            except OSError as error:
                logger.warning("unfinished uploads in %s stay: %s", root.uploads, error)

    async def _place(self, request: Request, text: str) -> Place:
        """Return the place that a path names for the caller in its session."""
        session: StagingSession = await self.session(request)
        principal = principal_of(request)
        others = [root for root, owners in self.roots if may_use(principal, owners)]
        return Places(session.root, others, self.home).find(text)

    async def _key(self, request: Request, wanted: UploadBody | CommitBody) -> UploadKey:
        place = await self._place(request, wanted.path)
        return UploadKey(place, principal_of(request).owner_key, wanted.upload)

    def _touch(self, request: Request) -> Touch:
        return partial(self.session, request)

    @takes(bytes, "application/octet-stream")
    async def _store(self, request: Request) -> Stored | Arrived:
        """Store the body as a file, or add it to the upload that ``upload`` names at ``offset``."""
        if "content-range" in request.headers:
            raise BadRequest("this route takes no Content-Range: name 'upload' and 'offset'")
        place = await self._place(request, request.path_params["path"])
        overwrite = flag_parameter(request, "overwrite")
        body = Body.of(request, self._touch(request))
        owner, upload = principal_of(request).owner_key, request.query_params.get("upload")
        if upload is None:
            sha256 = read_digest(request.headers.get("repr-digest"))
            return await self.files.store(place, owner, body, sha256, overwrite=overwrite)
        await self.files.check_target(place, overwrite=overwrite)
        offset = integer_parameter(request, "offset")
        return await self.files.receive(UploadKey(place, owner, upload), offset, body)

    async def _send(self, request: Request) -> FileReply:
        """Send a file, or one range of it."""
        place = await self._place(request, request.path_params["path"])
        return await open_reply(
            self.files.disk, self.files.digests, place, request, self._touch(request)
        )

    @takes(PutBody)
    async def _put(self, request: Request) -> Stored:
        """Store a small file."""
        wanted = await model_body(request, PutBody)
        place = await self._place(request, wanted.filename)
        return await self.files.put(place, principal_of(request).owner_key, wanted)

    @takes(GetBody)
    async def _get(self, request: Request) -> Content:
        """Return a small file."""
        wanted = await model_body(request, GetBody)
        return await self.files.get(await self._place(request, wanted.filename))

    @takes(ListBody)
    async def _list(self, request: Request) -> Listing:
        """List a directory, a page at a time."""
        wanted = await model_body(request, ListBody)
        if not 0 < wanted.limit <= ListBody().limit:
            raise BadRequest(f"'limit' must be 1 to {ListBody().limit}, not {wanted.limit}")
        place = await self._place(request, wanted.path)
        return await self.files.disk.run(list_folder, place, wanted.limit, wanted.after)

    @takes(StatBody)
    async def _stat(self, request: Request) -> Status:
        """Describe what is at a path, with its SHA-256 if ``checksum``."""
        wanted = await model_body(request, StatBody)
        place = await self._place(request, wanted.path)
        return await self.files.stat(place, checksum=wanted.checksum)

    @takes(MakeBody)
    async def _mkdir(self, request: Request) -> Made:
        """Make a directory, with its parents."""
        wanted = await model_body(request, MakeBody)
        return await self.files.disk.run(make_folder, await self._place(request, wanted.path))

    @takes(DeleteBody)
    async def _delete(self, request: Request) -> Deleted:
        """Delete a file, or a directory, with all that is in it if ``recursive``."""
        wanted = await model_body(request, DeleteBody)
        place = await self._place(request, wanted.path)
        return await self.files.disk.run(partial(delete, recursive=wanted.recursive), place)

    @takes(UploadBody)
    async def _arrived(self, request: Request) -> Arrived:
        """Tell how many bytes of an upload have arrived."""
        return await self.files.arrived(
            await self._key(request, await model_body(request, UploadBody))
        )

    @takes(CommitBody)
    async def _commit(self, request: Request) -> Stored:
        """Make an upload visible, if its SHA-256 is as it should be."""
        wanted = await model_body(request, CommitBody)
        return await self.files.commit(await self._key(request, wanted), wanted)

    @takes(MakeBody)
    async def _discard(self, request: Request) -> Deleted:
        """Delete what the caller's unfinished uploads to a path have left."""
        wanted = await model_body(request, MakeBody)
        key = await self._key(request, UploadBody(wanted.path, ""))
        await self.files.discard(key)
        return Deleted(str(key.place))

    @takes(GrantBody)
    async def _grant(self, request: Request) -> Ticket:
        """Give a ticket with which another endpoint may read a file for the caller."""
        wanted = await model_body(request, GrantBody)
        place = await self._place(request, wanted.path)
        endpoint = check_name(wanted.endpoint, "endpoint name")
        await self.files.disk.run(check_readable, place)
        sid = request.path_params["sid"]
        return Ticket(self.tickets.give(place, principal_of(request), sid, endpoint), LIFE)

    @takes(CopyBody)
    async def _copy(self, request: Request) -> ReportReply:
        """Fetch a file from another endpoint, telling how far it is, a line of JSON at a time."""
        wanted = await model_body(request, CopyBody)
        place = await self._place(request, wanted.path)
        await self.files.check_target(place, overwrite=wanted.overwrite)
        owner, touch = principal_of(request).owner_key, self._touch(request)
        return ReportReply(
            lambda report: self.files.fetch(self.context.hub, wanted, place, owner, touch, report)
        )

    def _granted(self, request: Request) -> tuple[Grant, Touch]:
        grant = self.tickets.check(request.headers.get(HEADER, ""), principal_of(request))
        return grant, partial(self.sessions.get, grant.principal, grant.sid)

    async def _send_granted(self, request: Request) -> FileReply:
        """Send the file that a ticket is for."""
        grant, touch = self._granted(request)
        await touch()
        return await open_reply(self.files.disk, self.files.digests, grant.place, request, touch)

    async def _stat_granted(self, request: Request) -> Status:
        """Describe the file that a ticket is for, with its SHA-256 if ``checksum``."""
        grant, touch = self._granted(request)
        await touch()
        checksum = flag_parameter(request, "checksum")
        return await self.files.stat(grant.place, checksum=checksum)


def _read_root(text: str, owners: list[str], state: Path) -> Root:
    if not Path(text).expanduser().is_absolute():
        raise ConfigError(f"the root {text!r} of staging is no absolute path")
    if not owners:
        raise ConfigError(f"the root {text!r} of staging is nobody's: name owners, or '*'")
    root = Root.of_setting(text)
    if "*" in owners and state.resolve().is_relative_to(root.path):
        raise ConfigError(
            f"the root {text!r} of staging holds this endpoint's own state, which is not for "
            "everybody: name owners, or another directory"
        )
    return root
