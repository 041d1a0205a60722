"""Say what a batch system must be able to do."""

import re
import reprlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar, Literal

import anyio.to_thread

from .commands import DEADLINE, Output
from .errors import InvalidJobId, UnknownBatchJob
from .models import JobAllocation, JobReport, JobState

Family = Literal["slurm", "pbs", "none"]


class BatchSystem(ABC):
    """Ask and steer one kind of scheduler.

    ``name`` is what a host says that it has, ``psij_executor`` the PSI/J executor for it, and
    ``family`` the kind whose commands it understands, which a site's variant shares; ``probe`` is a
    command that succeeds where the scheduler answers. Methods raise SchedulerUnavailable and
    SchedulerFailed, and InvalidJobId for ids.
    """

    name: ClassVar[str]
    family: ClassVar[Family]
    psij_executor: ClassVar[str]
    probe: ClassVar[tuple[str, ...]]
    job_id_form: ClassVar[re.Pattern[str]]

    @abstractmethod
    async def run(self, *command: str, deadline: float = DEADLINE) -> Output:
        """Run one of the scheduler's commands. Raises SchedulerUnavailable."""

    @abstractmethod
    def job_id(self) -> str | None:
        """Return the id of the batch job that this process runs in."""

    @abstractmethod
    async def nodelist(self) -> list[str]:
        """Return the hosts of this process's own job in the scheduler's order; none outside."""

    @abstractmethod
    async def job_allocation(self) -> JobAllocation | None:
        """Describe this process's own job; None outside of one. Raises AllocationUnknown."""

    @abstractmethod
    async def _reports(self, job_ids: list[str]) -> dict[str, JobReport]:
        """Report on the jobs that can be found, whose ids are safe."""

    @abstractmethod
    async def _cancel(self, job_id: str) -> None:
        """Cancel a job that there is."""

    @abstractmethod
    async def _expand(self, nodes: str) -> list[str]:
        """Return the hosts that `JobReport.nodes` stands for."""

    async def detect(self) -> bool:
        """Tell whether the scheduler answers here: a binary on ``PATH`` is not enough.

        Raises SchedulerUnavailable if it should, but is down or too slow; one that is installed
        without being set up is just not there.
        """
        if await anyio.to_thread.run_sync(shutil.which, self.probe[0]) is None:
            return False
        return (await self.run(*self.probe)).status == 0

    def in_allocation(self) -> bool:
        """Tell whether this process runs in a batch job."""
        return self.job_id() is not None

    def default_custom_attributes(self) -> dict[str, str]:
        """Return what every job needs at this site, as PSI/J's custom attributes."""
        return {}

    def terminal_states(self) -> frozenset[JobState]:
        """Return the states in which a job stays."""
        return frozenset(state for state in JobState if state.is_final)

    def check_id(self, job_id: object) -> str:
        """Return a job id that is safe on a command line. Raises InvalidJobId."""
        if not isinstance(job_id, str) or not self.job_id_form.fullmatch(job_id):
            raise InvalidJobId(f"{reprlib.repr(job_id)} is not a job id of {self.name}")
        return job_id

    async def reports(self, job_ids: Iterable[str]) -> dict[str, JobReport]:
        """Report on many jobs with few commands; those that nobody knows are UNKNOWN."""
        wanted = list(dict.fromkeys(self.check_id(job_id) for job_id in job_ids))
        found = await self._reports(wanted) if wanted else {}
        return {
            job_id: found.get(job_id) or JobReport(job_id, JobState.UNKNOWN) for job_id in wanted
        }

    async def report(self, job_id: str) -> JobReport:
        """Report on one job."""
        return (await self.reports([job_id]))[job_id]

    async def job_state(self, job_id: str) -> JobState:
        """Return a job's state; one that left the queue is looked up in the accounting."""
        return (await self.report(job_id)).state

    async def job_nodes(self, job_id: str) -> list[str]:
        """Return the hosts that a job runs or ran on."""
        nodes = (await self.report(job_id)).nodes
        return await self._expand(nodes) if nodes else []

    async def cancel(self, job_id: str) -> JobState:
        """Cancel a job, and return in which state it was; one that is over stays as it is.

        Raises UnknownBatchJob, JobForbidden.
        """
        state = await self.job_state(job_id)
        if state is JobState.UNKNOWN:
            raise UnknownBatchJob(f"{self.name} knows no job {job_id}")
        if not state.is_final:
            await self._cancel(job_id)
        return state
