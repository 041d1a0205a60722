"""Follow batch jobs: by the marks that they leave, and by asking the scheduler seldom, for all."""

import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.to_thread
import attrs

from orbit_core.batch import JobReport
from orbit_core.batch import JobState as BatchState
from orbit_core.errors import OrbitError

from .batch import Batch
from .files import Ending, JobFiles
from .job import Job

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 0.5
"""Seconds between looks at the marks of jobs."""

ASK_INTERVAL = 10.0
"""Seconds between questions to the scheduler, while no job is ending."""

ASK_SOON = 1.0
"""Seconds between questions while a job ends of which the scheduler has to tell why."""

MARK_PATIENCE = 3.0
"""Seconds in which a job's last mark arrives, after its scheduler says that it is over."""

REASON_PATIENCE = 30.0
"""Seconds in which a scheduler tells why a job ended, after that marked its end."""

CANCELLER_PATIENCE = 8.0
"""Seconds in which the accounting tells who cancelled a job, after the queue says that it was."""

UNKNOWN_PATIENCE = 60.0
"""Seconds after which a job that the scheduler does not know is over."""


@attrs.define(eq=False)
class Part:
    """Be what runs by itself: a job, or an element of a job array, which has an ``index``.

    ``ending_since`` is when there was a first sign of its end, ``unknown_since`` of its absence.
    """

    job: Job
    files: JobFiles
    native_id: str
    index: int | None = None
    is_running: bool = False
    has_exit: bool = False
    ending_since: float | None = None
    unknown_since: float | None = None


@attrs.frozen
class Marks:
    """Say what a part's files show."""

    has_start: bool
    has_exit: bool
    ended_well: bool


class BatchWatch:
    """Notice when jobs start and end, and why."""

    def __init__(
        self,
        batch: Batch,
        on_running: Callable[[Part], None],
        on_over: Callable[[Part, Ending, JobReport | None], Awaitable[None]],
    ) -> None:
        """Call these once for each part; ``on_over`` with its scheduler's report, if it told."""
        self._batch = batch
        self._on_running = on_running
        self._on_over = on_over
        self._parts: set[Part] = set()
        self._has_parts = anyio.Event()
        self._asked = -ASK_INTERVAL

    def add(self, job: Job) -> None:
        """Watch a job that is in the queue, from now on."""
        native_id = str(job.record.native_id)
        if not job.record.spec.count:
            self._parts.add(Part(job, job.files, native_id))
        for element in job.record.elements:
            if not element.state.is_final:
                name = self._batch.dialect.element(native_id, element.index)
                files = job.files.element(element.index)
                self._parts.add(Part(job, files, name, element.index))
        self._has_parts.set()

    def hurry(self, job: Job) -> None:
        """Ask soon about a job, which is being cancelled."""
        for part in self._parts:
            if part.job is job:
                part.ending_since = part.ending_since or _now()

    async def run(self) -> None:
        """Follow the jobs, while there are any, until cancelled."""
        while True:
            await self._has_parts.wait()
            await self._look()
            interval = ASK_SOON if self._is_urgent() else ASK_INTERVAL
            if self._parts and _is_past(self._asked, interval):
                await self._ask()
            if not self._parts:
                self._has_parts = anyio.Event()
            await anyio.sleep(LOOK_INTERVAL)

    def _is_urgent(self) -> bool:
        since = (part.ending_since for part in self._parts)
        return any(found is not None and not _is_past(found, REASON_PATIENCE) for found in since)

    async def _look(self) -> None:
        parts = list(self._parts)
        found = await anyio.to_thread.run_sync(_marks_of, parts)
        for part, marks in zip(parts, found, strict=True):
            if marks.has_start:
                self._runs(part)
            part.has_exit = marks.has_exit
            if marks.ended_well:
                await self._end(part, None)
            elif marks.has_exit:
                part.ending_since = part.ending_since or _now()
                if _is_past(part.ending_since, REASON_PATIENCE):
                    await self._end(part, None)

    async def _ask(self) -> None:
        is_urgent, self._asked = self._is_urgent(), _now()
        parts = list(self._parts)
        try:
            reports = await self._batch.system.reports(part.native_id for part in parts)
        except OrbitError as error:
            logger.warning("the scheduler does not tell how jobs are: %s", error.detail)
            return
        for part in parts:
            report = reports[part.native_id]
            if report.state is BatchState.RUNNING:
                self._runs(part)
            if self._is_over(part, report):
                await self._end(part, report if report.state.is_final else None)
        if not is_urgent:
            for job in {part.job for part in self._parts if part.job.record.cancel_requested}:
                await self._batch.cancel(job)

    def _runs(self, part: Part) -> None:
        if not part.is_running:
            part.is_running = True
            self._on_running(part)

    def _is_over(self, part: Part, report: JobReport) -> bool:
        if report.state is BatchState.UNKNOWN:
            part.unknown_since = part.unknown_since or _now()
            return part.has_exit or _is_past(part.unknown_since, UNKNOWN_PATIENCE)
        part.unknown_since = None
        if not report.state.is_final:
            return False
        part.ending_since = part.ending_since or _now()
        if report.state is BatchState.CANCELLED:
            return _is_told(part, report) or _is_past(part.ending_since, CANCELLER_PATIENCE)
        return part.has_exit or _is_past(part.ending_since, MARK_PATIENCE)

    async def _end(self, part: Part, report: JobReport | None) -> None:
        self._parts.discard(part)
        if await anyio.to_thread.run_sync(part.files.start) is not None:
            self._runs(part)
        ending = await anyio.to_thread.run_sync(part.files.ending)
        await self._on_over(part, ending, report)


def _is_told(part: Part, report: JobReport) -> bool:
    """Tell whether it is clear who cancelled a job."""
    is_ours = part.job.record.cancel_requested
    return is_ours or (report.failure is not None and report.failure.cancelled_by is not None)


def _marks_of(parts: list[Part]) -> list[Marks]:
    """Read the marks of many parts; listing a directory is also what makes NFS look again."""
    directories = {part.files.base.parent for part in parts}
    listed = {directory: _names(directory) for directory in directories}
    return [_marks(part.files, listed[part.files.base.parent]) for part in parts]


def _names(directory: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(directory))
    except OSError:
        return frozenset()


def _marks(files: JobFiles, names: frozenset[str]) -> Marks:
    has_start = files.path("start").name in names
    has_exit = files.path("exit").name in names and files.exit_code() is not None
    return Marks(has_start, has_exit, has_exit and files.ended_well())


def _is_past(since: float, patience: float) -> bool:
    return _now() - since >= patience


def _now() -> float:
    return anyio.current_time()
