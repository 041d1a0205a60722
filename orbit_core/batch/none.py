"""Be the batch system of hosts that have none."""

import re

from .commands import DEADLINE, Output
from .errors import SchedulerUnavailable
from .models import JobAllocation, JobReport
from .system import BatchSystem


class NoBatchSystem(BatchSystem):
    """Know no jobs."""

    name = "none"
    family = "none"
    psij_executor = "local"
    probe = ()
    job_id_form = re.compile(r"(?!)")

    async def detect(self) -> bool:
        """Be always there."""
        return True

    async def run(self, *command: str, deadline: float = DEADLINE) -> Output:
        """Have no commands."""
        raise SchedulerUnavailable("there is no scheduler here")

    def job_id(self) -> str | None:
        """Run in no job."""
        return None

    async def nodelist(self) -> list[str]:
        """Return no hosts."""
        return []

    async def job_allocation(self) -> JobAllocation | None:
        """Run in no job."""
        return None

    async def _reports(self, job_ids: list[str]) -> dict[str, JobReport]:
        return {}

    async def _cancel(self, job_id: str) -> None:
        """Never be called: no id is a job's."""

    async def _expand(self, nodes: str) -> list[str]:
        return []
