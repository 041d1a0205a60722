"""Collect from PBS Pro."""

import grp
import os
import pwd
import shutil
import time
from collections.abc import Mapping

import anyio.to_thread

from orbit_core.batch import OutputTooLarge, Record, parse_pbs_json, parse_pbs_text, run

from .info import COLLECT_DEADLINE, QueueInfo, own_name
from .models import Allocation, Job, Queue
from .pbs_values import job_of, may_use, node_pool, parse_sbank, queues_of

SBANK = "sbank-list-allocations"


class QueueInfoPBSPro(QueueInfo):
    """Answer for PBS Pro and OpenPBS: in JSON if that can be read, else in text.

    What did not come in readable JSON once is asked for in text from then on.
    """

    backend_name = "pbs"
    _in_text: frozenset[str] = frozenset()
    _queue_records: Mapping[str, Record] = {}

    async def _collect_info(self) -> dict[str, Queue]:
        self._queue_records = await self._ask("Queue", "qstat", "-Q", "-f")
        pool = node_pool(await self._ask("nodes", "pbsnodes", "-a"))
        return queues_of(self._queue_records, pool)

    async def _collect_jobs(self, user: str | None) -> list[Job]:
        """Ask for everybody's: the filter of qstat(1B) prints another form."""
        records, now = await self._ask("Jobs", "qstat", "-f"), time.time()
        return [job_of(name, record, now) for name, record in records.items()]

    async def _collect_allocations(self, user: str | None) -> list[Allocation]:
        """Ask sbank, where a site has it; its Python must not be ours."""
        environment = _without_virtual_environment()
        path = await anyio.to_thread.run_sync(shutil.which, SBANK)
        if path is None:
            return []
        done = await run(path, deadline=COLLECT_DEADLINE, environment=environment)
        name = await anyio.to_thread.run_sync(own_name) if user is None else user
        return parse_sbank(done.check(), name)

    async def _get_user_partitions(self, user: str) -> set[str] | None:
        groups = await anyio.to_thread.run_sync(_groups_of, user)
        records = self._queue_records
        return {name for name in records if may_use(records[name], user, groups)}

    async def _ask(self, kind: str, *command: str) -> dict[str, Record]:
        if kind not in self._in_text:
            try:
                done = await self.batch.run(*command, "-F", "json", deadline=COLLECT_DEADLINE)
                return await anyio.to_thread.run_sync(parse_pbs_json, done.stdout, kind)
            except (ValueError, OutputTooLarge):
                self._in_text |= {kind}
        done = await self.batch.run(*command, deadline=COLLECT_DEADLINE)
        return await anyio.to_thread.run_sync(parse_pbs_text, done.check())


def _without_virtual_environment() -> dict[str, str]:
    folder = os.environ.get("VIRTUAL_ENV", "")
    places = os.environ.get("PATH", "").split(os.pathsep)
    kept = [place for place in places if not folder or not place.startswith(folder)]
    return {"PATH": os.pathsep.join(kept), "VIRTUAL_ENV": "", "PYTHONPATH": ""}


def _groups_of(user: str) -> list[str]:
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return []
    found = []
    for number in os.getgrouplist(user, entry.pw_gid):
        try:
            found.append(grp.getgrgid(number).gr_name)
        except KeyError:
            found.append(str(number))
    return found
