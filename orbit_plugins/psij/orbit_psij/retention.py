"""Let go of jobs that ended long ago, and remember for a while that there were such jobs."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import attrs

from orbit_core import PluginContext

from .children.models import ChildSettings
from .errors import JobExpired
from .models import JobRecord

EXPIRED_KEPT = 20_000
"""How many jobs that were let go are remembered, so that asking for one answers 410."""


@attrs.frozen(kw_only=True)
class Settings:
    """Hold the plugin's settings, section ``[plugin.psij]``.

    ``keep_jobs`` is how long a job that is over and its output are kept, in seconds, and
    ``keep_jobs_count`` how many such jobs of one session. ``children`` is a section of its own.
    """

    keep_jobs: float = 7 * 24 * 3600.0
    keep_jobs_count: int = 10_000
    children: ChildSettings = attrs.field(factory=ChildSettings)


def due(records: Iterable[JobRecord], settings: Settings, now: float) -> list[JobRecord]:
    """Return the jobs whose time has come: those that ended too long ago, or before too many."""
    over: defaultdict[str, list[JobRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.changed):
        if record.state.is_final:
            over[record.sid].append(record)
    found: list[JobRecord] = []
    for ended in over.values():
        surplus = len(ended) - settings.keep_jobs_count
        found += (
            record
            for place, record in enumerate(ended)
            if place < surplus or record.changed < now - settings.keep_jobs
        )
    return found


class ExpiredJobs:
    """Remember the last `EXPIRED_KEPT` jobs that were let go, also after a restart."""

    def __init__(self, context: PluginContext) -> None:
        """Use a part of the plugin's documents."""
        self._documents = context.documents.part("expired")
        self._sids: dict[str, str] = {}

    async def load(self) -> None:
        """Read what there is from before a restart."""
        documents: dict[str, dict[str, Any]] = await self._documents.items()
        for job_id in sorted(documents, key=lambda job_id: float(documents[job_id]["time"])):
            self._sids[job_id] = documents[job_id]["sid"]

    async def add(self, records: list[JobRecord], now: float) -> None:
        """Remember jobs, and forget the oldest beyond the limit. Raises StateUnavailable."""
        await self._documents.put_all(
            {record.job_id: {"sid": record.sid, "time": now} for record in records}
        )
        self._sids |= {record.job_id: record.sid for record in records}
        surplus = list(self._sids)[: max(0, len(self._sids) - EXPIRED_KEPT)]
        for job_id in surplus:
            del self._sids[job_id]
        await self._documents.delete(*surplus)

    def check(self, sid: str, job_id: str) -> None:
        """Raise JobExpired for a job of this session that was let go."""
        if self._sids.get(job_id) == sid:
            raise JobExpired(f"job {job_id} ended too long ago: it is not kept any more")
