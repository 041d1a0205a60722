"""Collect from SLURM."""

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import anyio.to_thread

from orbit_core.batch import OutputTooLarge, SchedulerFailed

from .info import COLLECT_DEADLINE, QueueInfo
from .models import Allocation, Job, Queue
from .slurm_json import NotInJson, parse_associations, parse_sinfo, parse_squeue
from .slurm_text import (
    SINFO,
    SQUEUE,
    parse_associations_text,
    parse_sinfo_text,
    parse_squeue_text,
)

T = TypeVar("T")


class QueueInfoSlurm(QueueInfo):
    """Answer for SLURM: in JSON where it tells all that is needed, else in text.

    What did not come in JSON once is asked for in text from then on.
    """

    backend_name = "slurm"
    _in_text: frozenset[str] = frozenset()

    async def _collect_info(self) -> dict[str, Queue]:
        return await self._ask(
            "sinfo", ("--json",), parse_sinfo,
            ("--all", "--noheader", f"--format={SINFO}"), parse_sinfo_text,
        )  # fmt: skip

    async def _collect_jobs(self, user: str | None) -> list[Job]:
        whose = (f"--user={user}",) if user else ()
        return await self._ask(
            "squeue", ("--json", *whose), partial(parse_squeue, now=time.time()),
            ("--all", "--array", "--noheader", f"--format={SQUEUE}", *whose), parse_squeue_text,
        )  # fmt: skip

    async def _collect_allocations(self, user: str | None) -> list[Allocation]:
        whose = (f"users={user}",) if user else ()
        show = ("show", "assoc")
        try:
            return await self._ask(
                "sacctmgr", (*show, "--json", *whose), parse_associations,
                (*show, "--parsable2", "--noheader", *whose), parse_associations_text,
            )  # fmt: skip
        except SchedulerFailed:
            return []  # there need not be any accounting

    async def _get_user_partitions(self, user: str) -> set[str] | None:
        """Return the partitions of a user's associations; one without partition allows all."""
        found = {entry.partition for entry in (await self.list_allocations(user)).value}
        return None if not found or "" in found else found

    async def _ask(
        self,
        command: str,
        for_json: tuple[str, ...],
        parse_json: Callable[[str], T],
        for_text: tuple[str, ...],
        parse_text: Callable[[str], T],
    ) -> T:
        if command not in self._in_text:
            try:
                done = await self.batch.run(command, *for_json, deadline=COLLECT_DEADLINE)
                return await anyio.to_thread.run_sync(parse_json, done.stdout)
            except (NotInJson, OutputTooLarge):
                self._in_text |= {command}
        done = await self.batch.run(command, *for_text, deadline=COLLECT_DEADLINE)
        return await anyio.to_thread.run_sync(parse_text, done.check())
