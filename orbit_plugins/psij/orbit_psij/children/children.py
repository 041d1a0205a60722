"""Own all child endpoints of one plugin: start them, help them to the bridge, clear up after them.

A child is on disk before its job is. Whatever ends it, its token, its folder and its tunnel go with
it: at once, or when this endpoint comes back.
"""

import logging
import secrets
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import attrs

from orbit_core import PluginContext, PluginSession
from orbit_core.errors import InvalidBody, NameInUse, OrbitError, StateUnavailable
from orbit_core.models import Principal
from orbit_core.values import as_model
from orbit_core.ways.address import host_and_port, joined, own_node_name
from orbit_core.ways.models import Plan
from orbit_core.ways.ssh import SSHSettings
from orbit_psij.job import Job
from orbit_psij.jobs import Jobs

from .child import Child, Keeper, ending_of
from .errors import UnknownChild
from .folder import ChildFolder
from .models import ChildRecord, ChildSettings, ChildSubmission, ChildSubmitted, TunnelStatus
from .relays import ChildRelay
from .reverse import ReverseTunnels
from .tokens import ChildTokens

logger = logging.getLogger(__name__)

ENDED_KEPT = 200
"""Children that are over and can still be asked for; the oldest are forgotten."""

RELAYED = frozenset({"relay", "auto"})
REVERSED = frozenset({"reverse", "auto"})


class Children:
    """Keep the children of one endpoint, by their full names."""

    def __init__(self, context: PluginContext, jobs: Jobs, settings: ChildSettings) -> None:
        """Use the plugin's documents and a folder below its directory."""
        self._context = context
        self._jobs = jobs
        self._settings = settings
        self._documents = context.documents.part("children")
        self._folders = context.directory / "children"
        self._tokens = ChildTokens(context)
        self._keeper = Keeper(settings, self._tokens, self._save, jobs.fail)
        self._ssh = SSHSettings(
            settings.known_hosts or str(self._folders / "known_hosts"),
            settings.known_hosts is None,
            settings.ssh_options,
        )
        target = joined(*host_and_port(context.bridge_url)) if context.bridge_url else ""
        self._reverse = ReverseTunnels(self._ssh, target)
        self._relay = ChildRelay(context, settings, self._token_of)
        self._children: dict[str, Child] = {}
        self._linked: Collection[str] = ()

    async def open(self) -> None:
        """Read what there is from before a restart."""
        await anyio.to_thread.run_sync(_make_private, self._folders)
        for key, data in (await self._documents.items()).items():
            try:
                record = as_model(data, ChildRecord, "record")
            except InvalidBody as error:
                logger.error("child %s does not come back: %s", key, error.detail)
                continue
            self._children[record.endpoint_name] = self._child(record)

    async def resume(self) -> None:
        """Go on with the children of before, once their jobs are known again.

        One whose job is not is over, and so is one whose job never got to be submitted.
        """
        for child in list(self._children.values()):
            if child.record.ended is not None and child.record.is_clear:
                continue
            job = self._jobs.running(str(child.folder.script))
            if job is None:
                self._context.background(self._end, child, None)
                continue
            await self._open_ways(child)
            self._begin(child, job)

    def hear(self, linked: Collection[str]) -> None:
        """Take the names of the endpoints that are linked now."""
        self._linked = linked
        for child in self._children.values():
            child.hear(is_linked=child.name in linked)

    async def submit(self, session: PluginSession, wanted: ChildSubmission) -> ChildSubmitted:
        """Start a child endpoint in a job of ``session``.

        Once begun it is carried through, even if the caller leaves. Raises NameInUse, Unavailable,
        and what submitting a job raises.
        """
        self._tokens.check()
        child = self._reserve(session, wanted)
        with anyio.CancelScope(shield=True):
            try:
                job = await self._start(session, child, wanted)
            except (OrbitError, OSError) as error:
                self._context.background(self._clear, child)
                if isinstance(error, OSError):
                    raise StateUnavailable(f"the child has no folder: {error}") from error
                raise
            self._begin(child, job)
            await self._save(child, job_id=job.record.job_id)
        return ChildSubmitted(job.record.job_id, job.record.native_id, child.name)

    def status(self, name: str) -> TunnelStatus:
        """Return how a child is, by its full name or the last part of it."""
        child = self._find(name)
        return TunnelStatus(name, "no_tunnel") if child is None else child.status()

    def list(self, principal: Principal) -> list[TunnelStatus]:
        """Return the children of whoever asks, oldest first."""
        return [
            child.status()
            for child in self._children.values()
            if principal.may_use(child.record.owner)
        ]

    async def stop(self, name: str, principal: Principal) -> TunnelStatus:
        """End a child with its job; one that is over stays as it is.

        Raises UnknownChild, also for a child of somebody else.
        """
        child = self._find(name)
        if child is None or not principal.may_use(child.record.owner):
            raise UnknownChild(f"this endpoint has no child {name!r}: orbit children lists them")
        if child.job is not None and child.record.ended is None:
            await self._jobs.cancel(child.job)
        return child.status()

    def _find(self, name: str) -> Child | None:
        return self._children.get(name) or self._children.get(f"{self._context.endpoint}.{name}")

    def _reserve(self, session: PluginSession, wanted: ChildSubmission) -> Child:
        """Take a name. Raises NameInUse, if a child has it, or had it and is not cleared away."""
        name = wanted.endpoint_name
        known = self._children.get(name)
        if known is not None and not known.record.is_clear:
            raise NameInUse(
                f"there is a child {name!r} already: choose another name, or orbit stop {name}"
            )
        if name in self._linked:
            raise NameInUse(f"an endpoint {name!r} is linked already: choose another name")
        folder = f"{name}~{secrets.token_hex(4)}"
        record = ChildRecord(name, folder, wanted.tunnel, time.time(), owner=session.owner)
        self._children[name] = child = self._child(record)
        return child

    async def _start(self, session: PluginSession, child: Child, wanted: ChildSubmission) -> Job:
        await self._write(child)
        token = await self._tokens.mint(child.name)
        spec, cert = wanted.submission.job_spec, self._context.bridge_cert
        await anyio.to_thread.run_sync(
            child.folder.prepare, token, spec.executable, self._settings.setup, cert
        )
        login = self._settings.login_host or own_node_name()
        plan = Plan(
            login, list(self._ssh.options), self._ssh.known_hosts, self._ssh.trust_new_hosts
        )
        await child.meeting.write("plan", plan)
        await self._open_ways(child)
        job_spec = child.folder.job_spec(
            spec, child.name, self._context.bridge_url, child.record.tunnel, login=login, cert=cert
        )
        return await self._jobs.submit(
            session, attrs.evolve(wanted.submission, job_spec=job_spec), None
        )

    async def _open_ways(self, child: Child) -> None:
        """Offer the relay to a child that may want it. Raises ConfigError if it insists on it."""
        if child.record.tunnel in RELAYED:
            await self._relay.offer(child, needed=child.record.tunnel == "relay")

    def _begin(self, child: Child, job: Job) -> None:
        child.job = job
        child.hear(is_linked=child.name in self._linked)
        self._context.background(self._live, child, job)

    async def _live(self, child: Child, job: Job) -> None:
        """Be with a child until its job is over, and clear up."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._keeper.follow, child, job)
            if child.record.tunnel in REVERSED:
                nodes = partial(self._jobs.nodes, job)
                group.start_soon(self._reverse.serve, child, nodes)
            await job.until_over()
            group.cancel_scope.cancel()
        await self._end(child, job)

    async def _end(self, child: Child, job: Job | None) -> None:
        if child.record.ended is None:
            how = await ending_of(child, job) if job is not None else _vanished(child)
            await self._save(child, ended=time.time(), **how)
        await self._clear(child)

    async def _clear(self, child: Child) -> None:
        """Take everything away that a child had; its name is free then."""
        self._relay.cut(child.name)
        await self._tokens.revoke(child.name)
        await anyio.to_thread.run_sync(child.folder.remove)
        if child.record.ended is None:  # it never began
            self._children.pop(child.name, None)
            await self._documents.delete(child.name)
            return
        await self._save(child, is_clear=True)
        await self._forget_oldest()

    async def _forget_oldest(self) -> None:
        over = [child for child in self._children.values() if child.record.is_clear]
        for child in over[: max(0, len(over) - ENDED_KEPT)]:
            del self._children[child.name]
            await self._documents.delete(child.name)

    async def _save(self, child: Child, **changes: Any) -> None:
        """Change a child's record, and tell its owner; if it cannot be written, that is logged.

        The next change is written with all that went before.
        """
        try:
            await self._write(child, **changes)
        except StateUnavailable as error:
            logger.error("how the child %s is would be lost now: %s", child.name, error.detail)
        status = attrs.asdict(child.status())
        self._context.notify("tunnel_status", status, owner=child.record.owner)

    async def _write(self, child: Child, **changes: Any) -> None:
        """Change a child's record on disk, then for whoever asks. Raises StateUnavailable.

        What was told is true after a crash as well. Once begun it is carried through, and it counts
        even if it cannot be written.
        """
        with anyio.CancelScope(shield=True):
            async with child.writing:
                record = attrs.evolve(child.record, **changes)
                try:
                    await self._documents.put(child.name, attrs.asdict(record))
                finally:
                    child.record = record

    def _child(self, record: ChildRecord) -> Child:
        return Child(record, ChildFolder(self._folders / record.folder))

    def _token_of(self, name: str) -> str | None:
        """Return the token of a child that may be relayed, reading it from its folder."""
        child = self._children.get(name)
        if child is None or child.record.tunnel not in RELAYED or child.record.ended is not None:
            return None
        return child.folder.token()


def _vanished(child: Child) -> dict[str, Any]:
    if child.record.status == "active":
        return {"status": "done"}
    return {"status": "no_tunnel", "reason": "its job is not known any more"}


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
