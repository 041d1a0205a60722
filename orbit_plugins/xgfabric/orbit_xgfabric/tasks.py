"""Run tasks through RHAPSODY at a cluster, each to its end once, whoever is restarted meanwhile.

A task's uid is the run's and its own, so that a run that goes on after a restart finds what it
submitted before. A task that ended with its endpoint is submitted again under the next uid. Where
it runs, a file notes how it ended: one that had ended, though nobody could be told any more, is not
run again.
"""

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import attrs
from orbit_rhapsody import DuplicateTask, UnknownTask
from orbit_rhapsody.task import LOST

from .site import Site

LOOK = 1.0
"""Seconds after which one look at tasks that run ends, and those that are over are noted."""

ATTEMPTS = 5
"""How often a task is submitted again that ended with its endpoint: it may be the reason."""

TAIL = 2000
"""Characters of a failed task's last words that are kept."""

SUCCEEDED = frozenset({"DONE", "COMPLETED"})
"""How RHAPSODY calls tasks that ended well, of old and now."""

_WAITING = frozenset({"PENDING", "RUNNING"})
_UNFINISHED = _WAITING | {"CANCELED", "UNKNOWN"}

_ONCE = """
note=$1; shift
if [ -e "$note" ]; then exit "$(cat "$note")"; fi
"$@"
code=$?
echo "$code" > "$note.part" && mv "$note.part" "$note"
exit "$code"
"""


@attrs.frozen
class Task:
    """Say what is to be run: ``name`` is its own within its run, ``note`` the file of its end.

    ``options`` are RHAPSODY's ``task_backend_specific_kwargs``.
    """

    name: str
    executable: str
    arguments: list[str]
    note: str
    options: dict[str, Any]

    def document(self, uid: str) -> dict[str, Any]:
        """Return what RHAPSODY takes."""
        command = [self.note, self.executable, *self.arguments]
        return {
            "uid": uid,
            "executable": "/bin/sh",
            "arguments": ["-c", _ONCE, "orbit-xgfabric", *command],
            "task_backend_specific_kwargs": self.options,
        }


@attrs.frozen
class Ending:
    """Say how a task ended; ``began`` and ``ended`` are seconds since the epoch, there."""

    state: str
    began: float
    ended: float
    reason: str = ""
    stderr: str = ""

    @property
    def succeeded(self) -> bool:
        """Tell whether RHAPSODY says that it ended well."""
        return self.state in SUCCEEDED

    @property
    def words(self) -> str:
        """Return why it failed, with its last words."""
        return f"{self.reason}: {self.stderr}" if self.stderr else self.reason


OnEnd = Callable[[Task, Ending], Awaitable[None]]


async def _always() -> bool:
    return True


@attrs.frozen(eq=False)
class Runner:
    """Run tasks at one endpoint: ``prefix`` begins their uids, ``client`` is RHAPSODY's there.

    Every method raises ClusterLost, and what RHAPSODY refuses.
    """

    site: Site
    endpoint: str
    client: Any
    prefix: str

    async def run(
        self, tasks: Iterable[Task], on_end: OnEnd, goes_on: Callable[[], Awaitable[bool]] = _always
    ) -> None:
        """Run tasks, and tell of the end of each; once ``goes_on`` says no the rest is left."""
        left = {task.name: (task, 0) for task in tasks}
        while left and await goes_on():
            missing = []
            for found, task in await self._look(left, LOOK):
                if found["state"] == "UNKNOWN":
                    missing.append(task.document(found["uid"]))
                elif found["state"] not in _WAITING:
                    del left[task.name]
                    await on_end(task, _ending(found))
            if missing:
                await self.site.ask(self.endpoint, partial(self._submit, missing))

    async def give_up(self, tasks: Iterable[Task], on_end: OnEnd) -> None:
        """Cancel tasks, and tell of the end of those that had ended before."""
        await self.site.ask(self.endpoint, self.client.cancel_all_tasks)
        for found, task in await self._look({task.name: (task, 0) for task in tasks}, 0.0):
            if found["state"] not in _UNFINISHED:
                await on_end(task, _ending(found))

    async def _look(
        self, left: dict[str, tuple[Task, int]], seconds: float
    ) -> list[tuple[dict[str, Any], Task]]:
        """Return what RHAPSODY says of tasks, of the last attempt at each."""
        looked: list[tuple[dict[str, Any], Task]] = []
        wanted = set(left)
        while wanted:
            uids = {self._uid(name, left[name][1]): name for name in wanted}
            wanted = set()
            for found in await self.site.ask(self.endpoint, partial(self._find, uids, seconds)):
                task, attempt = left[uids[found["uid"]]]
                if _is_lost(found) and attempt < ATTEMPTS:
                    left[task.name] = (task, attempt + 1)
                    wanted.add(task.name)
                else:
                    looked.append((found, task))
        return looked

    def _uid(self, name: str, attempt: int) -> str:
        return f"{self.prefix}.{name}.{attempt}" if attempt else f"{self.prefix}.{name}"

    async def _find(self, uids: Iterable[str], seconds: float) -> list[dict[str, Any]]:
        try:
            return list(await self.client.find(list(uids), seconds))
        except UnknownTask:
            return [{"uid": uid, "state": "UNKNOWN"} for uid in uids]

    async def _submit(self, documents: list[dict[str, Any]]) -> None:
        try:
            await self.client.submit_tasks(documents)
        except DuplicateTask:  # an attempt before this one arrived, though its answer did not
            return


def _is_lost(found: dict[str, Any]) -> bool:
    """Tell whether a task ended with its endpoint, or so long ago that its result is not kept."""
    return found["state"] == "GONE" or found.get("error") == LOST


def _ending(found: dict[str, Any]) -> Ending:
    stderr = str(found.get("stderr") or "").strip()
    began, ended = found.get("started") or 0.0, found.get("finished") or 0.0
    reason = str(found.get("error") or "") or f"it is {found['state']}"
    return Ending(str(found["state"]), began, ended, reason, stderr[-TAIL:])
