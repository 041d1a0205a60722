"""Carry batch jobs from their submission to their end, and those of an earlier process further."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import anyio
import attrs

from orbit_core.batch import JobReport, SchedulerUnavailable
from orbit_core.errors import OrbitError

from .batch import Batch
from .batch_watch import BatchWatch, Part
from .files import Ending, Tail
from .job import Job, Verdict, judge_batch
from .models import Element, JobState

logger = logging.getLogger(__name__)

RETRY_INTERVAL = 10.0
"""Seconds until a scheduler that does not answer is asked again for the jobs of before."""

_NOTHING = Ending(None, "", Tail(), Tail())


class Enter(Protocol):
    """Put a job into a state, and make that known."""

    def __call__(self, job: Job, ending: Ending | None, **changes: Any) -> None:
        """Change the record."""
        ...


Finish = Callable[[Job, Ending, Verdict], Awaitable[None]]
"""Take the end of a job."""


class BatchJobs:
    """Own what the batch jobs of one plugin have in common."""

    def __init__(self, batch: Batch, enter: Enter, finish: Finish) -> None:
        """Tell through ``enter`` of what happens to a job, and through ``finish`` of its end."""
        self._batch = batch
        self._enter = enter
        self._finish = finish
        self._watch = BatchWatch(batch, self._on_running, self._on_over)

    async def run(self) -> None:
        """Follow the jobs until cancelled."""
        await self._watch.run()

    async def launch(self, job: Job, known: Callable[[str], Job]) -> str:
        """Submit a job and follow it; ``known`` finds those that it waits for.

        Raises JobRefused, SubmitFailed, SchedulerUnavailable.
        """
        native_id = await self._batch.launch(job, known)
        self._follow(job, native_id)
        return native_id

    async def end(self, job: Job) -> None:
        """Have the scheduler end a job."""
        self._watch.hurry(job)
        await self._batch.cancel(job)

    async def nodes(self, native_id: str) -> list[str]:
        """Return the hosts that a job runs on. Raises SchedulerUnavailable, SchedulerFailed."""
        return await self._batch.system.job_nodes(native_id)

    async def resume(self, jobs: list[Job], relaunch: Callable[[Job], Awaitable[None]]) -> None:
        """Go on with jobs that an earlier process submitted, or was about to."""
        lost = [job for job in jobs if job.record.native_id is None]
        for job in jobs:
            if job.record.native_id is not None:
                await self._take_up(job, job.record.native_id)
        while lost:
            lost = await self._recover(lost, relaunch)
            if lost:
                await anyio.sleep(RETRY_INTERVAL)

    async def _recover(
        self, lost: list[Job], relaunch: Callable[[Job], Awaitable[None]]
    ) -> list[Job]:
        """Find jobs in the queue, submit those that never got there, and return the rest."""
        try:
            found = await self._batch.find(lost)
        except OrbitError as error:
            logger.warning("jobs of before are not found yet: %s", error.detail)
            return lost
        rest = []
        for job in lost:
            native_id = found.get(job.record.job_id)
            if native_id is not None:
                await self._take_up(job, native_id)
            elif job.record.cancel_requested:
                await self._finish(job, _NOTHING, judge_batch(job.record, _NOTHING, None))
            elif not await self._submitted(job, relaunch):
                rest.append(job)
        return rest

    async def _submitted(self, job: Job, relaunch: Callable[[Job], Awaitable[None]]) -> bool:
        try:
            await relaunch(job)
        except SchedulerUnavailable as error:
            logger.warning("job %s is not submitted yet: %s", job.record.job_id, error.detail)
            return False
        except OrbitError as error:
            verdict = Verdict(JobState.FAILED, None, error.detail)
            await self._finish(job, _NOTHING, verdict)
        return True

    async def _take_up(self, job: Job, native_id: str) -> None:
        self._follow(job, native_id)
        await self._finish_array(job)
        if job.record.cancel_requested:
            await self.end(job)

    def _follow(self, job: Job, native_id: str) -> None:
        job.is_launched = True
        job.advance(native_id=native_id)
        if JobState.QUEUED.may_follow(job.record.state):
            self._enter(job, None, state=JobState.QUEUED, changed=time.time())
        self._watch.add(job)

    def _on_running(self, part: Part) -> None:
        if part.index is not None:
            self._change(part, state=JobState.ACTIVE)
        if JobState.ACTIVE.may_follow(part.job.record.state):
            self._enter(part.job, None, state=JobState.ACTIVE, changed=time.time())

    async def _on_over(self, part: Part, ending: Ending, report: JobReport | None) -> None:
        verdict = judge_batch(part.job.record, ending, report)
        try:
            if part.index is None:
                await self._finish(part.job, ending, verdict)
            else:
                self._change(part, **attrs.asdict(verdict, recurse=False))
                await self._finish_array(part.job)
        except OrbitError as error:
            logger.error("job %s is not let go: %s", part.job.record.job_id, error.detail)

    async def _finish_array(self, job: Job) -> None:
        elements = job.record.elements
        if elements and all(element.state.is_final for element in elements):
            await self._finish(job, _NOTHING, _whole(elements))

    def _change(self, part: Part, **changes: Any) -> None:
        """Change an element of a job array, and tell of it."""
        job, index = part.job, part.index or 0
        elements = list(job.record.elements)
        elements[index] = changed = attrs.evolve(elements[index], **changes)
        job.advance(elements=elements)
        job.notify(
            "array_status", {"job_id": job.record.job_id, **attrs.asdict(changed, recurse=True)}
        )


def _whole(elements: list[Element]) -> Verdict:
    """Return how a job array ended: as the first of its elements that failed, if one did."""
    for state in (JobState.FAILED, JobState.CANCELED):
        ended_so = [element for element in elements if element.state is state]
        if ended_so:
            first = ended_so[0]
            message = f"{len(ended_so)} of {len(elements)} {state}: [{first.index}] {first.message}"
            return Verdict(state, first.exit_code, message, first.failure)
    return Verdict(JobState.COMPLETED, 0, None)
