"""Hold one child endpoint, and live with it from its job's submission to its job's end."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import anyio
import anyio.to_thread
import attrs

from orbit_core.errors import InvalidBody, OrbitError
from orbit_core.ways.models import Report
from orbit_core.ways.rendezvous import Rendezvous
from orbit_core.ways.ssh import Tunnel
from orbit_psij.files import Tail, read_tail
from orbit_psij.job import Job
from orbit_psij.models import JobState

from .folder import ChildFolder
from .models import ChildRecord, ChildSettings, Stage, TunnelStatus
from .tokens import ChildTokens

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0
"""Seconds between looks for what a child reports while it is on its way."""

LINKED_INTERVAL = 5.0
"""The same once it is linked: it may come back another way."""


@attrs.define(eq=False)
class Child:
    """Be one child: its record, its folder, its job, what it reports, and its reverse tunnel.

    Who changes the record holds ``writing`` meanwhile.
    """

    record: ChildRecord
    folder: ChildFolder
    job: Job | None = None
    report: Report = attrs.field(factory=Report)
    tunnel: Tunnel | None = None
    is_linked: bool = False
    has_reported: bool = False
    writing: anyio.Lock = attrs.field(factory=anyio.Lock, init=False)
    _changed: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    @property
    def name(self) -> str:
        """Return the child's full name."""
        return self.record.endpoint_name

    @property
    def meeting(self) -> Rendezvous:
        """Return the folder as a place to meet."""
        return Rendezvous(self.folder.path)

    def hear(self, *, is_linked: bool) -> None:
        """Note whether the child is linked, and wake who waits for that."""
        if is_linked != self.is_linked:
            self.is_linked = is_linked
            changed, self._changed = self._changed, anyio.Event()
            changed.set()

    async def change(self, patience: float) -> None:
        """Wait until `is_linked` changes, for so many seconds at most."""
        with anyio.move_on_after(patience):
            await self._changed.wait()

    async def read_report(self) -> bool:
        """Read what the child reports, and tell whether it has said anything yet."""
        try:
            found = await self.meeting.read("report", Report)
        except InvalidBody as error:
            logger.warning("the child %s reports nonsense: %s", self.name, error.detail)
            return False
        self.report = found or self.report
        self.has_reported = self.has_reported or found is not None
        return found is not None

    def status(self) -> TunnelStatus:
        """Return how the child is."""
        record, tunnel = self.record, self.tunnel
        over = record.ended is not None
        return TunnelStatus(
            record.endpoint_name,
            record.status,
            self._stage(),
            port=None if over else self.report.port,
            pid=None if over else (tunnel.pid if tunnel else self.report.pid),
            tunnel=record.tunnel,
            way=record.way,
            lost=record.lost,
            reason=record.reason,
            job_id=record.job_id,
            job_state=None if self.job is None else str(self.job.record.state),
            is_clear=record.is_clear,
        )

    def _stage(self) -> Stage:
        if self.record.ended is not None:
            return "over"
        if self.record.status == "active":
            return "ready"
        if self.job is None or self.job.record.state in (JobState.NEW, JobState.QUEUED):
            return "queued"
        return "linking" if self.has_reported else "running"


class Save(Protocol):
    """Change a child's record, on disk and for whoever listens."""

    async def __call__(self, child: Child, **changes: Any) -> None:
        """Change it."""
        ...


@attrs.frozen(eq=False)
class Keeper:
    """Follow children with what their parent has: settings, tokens, and the jobs' end."""

    settings: ChildSettings
    tokens: ChildTokens
    save: Save
    fail: Callable[[Job, str], Awaitable[None]]

    async def follow(self, child: Child, job: Job) -> None:
        """See a child from its job's start to its link, or give it up, and then watch its way."""
        while job.record.state in (JobState.NEW, JobState.QUEUED):
            await job.change()
        if child.record.status == "pending":
            await self._limit(child, job)
            await self._see_linked(child, job)
        if child.record.status == "failed":  # perhaps before this endpoint was started again
            if child.record.ended is None:
                await self.fail(job, child.record.reason or "")
            return
        while not job.record.state.is_final:
            await self._note_way(child)
            await child.change(LINKED_INTERVAL)

    async def _limit(self, child: Child, job: Job) -> None:
        duration = job.record.spec.attributes.duration
        if duration is None or job.record.state.is_final:
            return
        try:
            await self.tokens.limit(child.name, duration)
        except OrbitError as error:
            logger.warning("the token of %s lives on: %s", child.name, error.detail)

    async def _see_linked(self, child: Child, job: Job) -> None:
        """Wait until a child is linked, or give it up."""
        begun, heard = time.monotonic(), None
        while not child.is_linked:
            now = time.monotonic()
            if await child.read_report() and heard is None:
                heard = now
            reason = self._reason(child, now - begun, None if heard is None else now - heard)
            if reason is not None:
                await self.save(child, status="failed", reason=reason, lost=child.report.lost)
                return
            await child.change(LOOK_INTERVAL)

    def _reason(self, child: Child, waited: float, tried: float | None) -> str | None:
        """Return why a child is given up, None if it is not."""
        if tried is not None and tried > self.settings.patience:
            words = "; ".join(f"{way}: {why}" for way, why in child.report.lost.items())
            hint = "" if child.record.tunnel == "auto" else "; tunnel 'auto' tries every way"
            return (
                f"the child endpoint {child.name} did not reach the bridge within "
                f"{self.settings.patience:g} s (tunnel {child.record.tunnel!r}): "
                f"{words or 'it tells no reason'}{hint}"
            )
        if tried is None and waited > self.settings.start_patience:
            return (
                f"the child endpoint {child.name} did not start within "
                f"{self.settings.start_patience:g} s of its job: see the job's output"
            )
        return None

    async def _note_way(self, child: Child) -> None:
        await child.read_report()
        record, report = child.record, child.report
        found: dict[str, Any] = {"status": "active"}
        if report.way is not None:  # or it is an old one, from before the child came back
            found |= {"way": report.way, "lost": report.lost}
        if child.is_linked and found != {key: getattr(record, key) for key in found}:
            await self.save(child, **found)


async def ending_of(child: Child, job: Job) -> dict[str, Any]:
    """Return how a child's record ends, now that its job is over."""
    if child.record.status in ("done", "failed"):
        return {}
    if child.record.status == "active":
        return {"status": "done"}
    if job.record.state is JobState.CANCELED:
        return {"status": "no_tunnel", "reason": "its job was cancelled before it was linked"}
    tail: Tail = await anyio.to_thread.run_sync(read_tail, job.files.stream("stderr"))
    words = tail.text.strip().rpartition("\n")[2]
    ended = job.record.message or f"its job ended as {job.record.state}"
    reason = f"the child endpoint {child.name} ended before it was linked: {ended}"
    return {"status": "failed", "reason": f"{reason}: {words}" if words else reason}
