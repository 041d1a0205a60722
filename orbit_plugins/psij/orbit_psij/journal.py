"""Write jobs' records down: at once where a promise hangs on it, else many at a time."""

import logging
from collections.abc import Callable

import anyio
import attrs

from orbit_core import PluginContext
from orbit_core.errors import InvalidBody, StateUnavailable
from orbit_core.values import as_model

from .models import JobRecord

logger = logging.getLogger(__name__)

WRITE_DELAY = 0.2
"""Seconds for which changed records are collected into one write."""

RETRY_DELAY = 5.0
"""Seconds until a write that failed is tried again."""


class Journal:
    """Keep the records of one plugin's jobs on disk."""

    def __init__(self, context: PluginContext, find: Callable[[str], JobRecord | None]) -> None:
        """Write to the plugin's documents; ``find`` returns the record of a job as it is now."""
        self._documents = context.documents.part("jobs")
        self._find = find
        self._changed: set[str] = set()
        self._has_changed = anyio.Event()

    async def records(self) -> list[JobRecord]:
        """Return what there is from before a restart, without what cannot be read (logged)."""
        found: list[JobRecord] = []
        for key, data in (await self._documents.items()).items():
            try:
                found.append(as_model(data, JobRecord, "record", strict=True))
            except InvalidBody as error:
                logger.error("job %s does not come back: %s", key, error.detail)
        return found

    async def write(self, record: JobRecord) -> None:
        """Have a record on disk. Raises StateUnavailable."""
        await self._documents.put(record.job_id, attrs.asdict(record))

    async def delete(self, job_ids: list[str]) -> None:
        """Remove records. Raises StateUnavailable."""
        await self._documents.delete(*job_ids)

    def mark(self, job_id: str) -> None:
        """Have a changed record written soon."""
        self._changed.add(job_id)
        self._has_changed.set()

    async def flush(self) -> None:
        """Write every change that is not on disk yet. Raises StateUnavailable."""
        changed, self._changed = self._changed, set()
        records = [record for record in map(self._find, changed) if record is not None]
        if not records:
            return
        try:
            await self._documents.put_all(
                {record.job_id: attrs.asdict(record) for record in records}
            )
        except StateUnavailable:
            self._changed |= changed
            raise

    async def run(self) -> None:
        """Write changes as they come, until cancelled."""
        while True:
            await self._has_changed.wait()
            self._has_changed = anyio.Event()
            await anyio.sleep(WRITE_DELAY)
            try:
                await self.flush()
            except StateUnavailable as error:
                logger.error("states of jobs are not written, trying again: %s", error.detail)
                await anyio.sleep(RETRY_DELAY)
                self._has_changed.set()
