"""Run tasks through RHAPSODY at a cluster, each to its end once, whoever is restarted meanwhile.

A task's uid is the run's and its own, so that a run that goes on after a restart finds what it
submitted before. A task that ended with its endpoint is submitted again under the next uid. Where
it runs, a file notes how it ended: one that had ended, though nobody could be told any more, is not
run again, unless it was killed.
"""

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import attrs
from orbit_rhapsody import DuplicateTask, UnknownTask
from orbit_rhapsody.task import LOST

from .site import Site

FIRST_LOOK, LOOK = 0.05, 1.0
"""Seconds after which one look at tasks ends, and those that are over are noted.

The first is for tasks that were just submitted; each look takes twice as long as the one before.
"""

ATTEMPTS = 5
"""How often a task is submitted again that ended with its endpoint: it may be the reason."""

TAIL = 2000
"""Characters of a failed task's last words that are kept."""

SUCCEEDED = frozenset({"DONE", "COMPLETED"})
"""How RHAPSODY calls tasks that ended well, of old and now."""

_UNKNOWN_OR_WAITING = frozenset({"UNKNOWN", "PENDING", "RUNNING"})
_UNFINISHED = _UNKNOWN_OR_WAITING | {"CANCELED"}

KILLED = 128
"""The exit code to which shells add the number of the signal that ended a program."""

_ONCE = f"""
note=$1; shift
if [ -e "$note" ]; then exit "$(cat "$note")"; fi
"$@"
code=$?
if [ "$code" -le {KILLED} ]; then echo "$code" > "$note.part" && mv "$note.part" "$note"; fi
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
Count = Callable[[int], Awaitable[None]]


async def _always() -> bool:
    return True


@attrs.frozen(eq=False)
class Runner:
    """Run tasks at one endpoint: ``prefix`` begins their uids, ``client`` is RHAPSODY's there.

    ``count`` is told how many of them run, as often as that is looked at. ``doubt`` is waited for
    where a task was killed: by its endpoint's end, if that is what follows. Every method raises
    ClusterLost, and what RHAPSODY refuses.
    """

    site: Site
    endpoint: str
    client: Any
    prefix: str
    count: Count
    doubt: Callable[[], Awaitable[None]] | None = None

    async def run(
        self, tasks: Iterable[Task], on_end: OnEnd, goes_on: Callable[[], Awaitable[bool]] = _always
    ) -> None:
        """Run tasks, and tell of the end of each; once ``goes_on`` says no the rest is left."""
        left, seconds = {task.name: (task, 0) for task in tasks}, 0.0
        while left and await goes_on():
            looked = await self._look(left, seconds)
            await self._doubt(found for found, _ in looked)
            await self.count(sum(found["state"] == "RUNNING" for found, _ in looked))
            for found, task in looked:
                if found["state"] not in _UNKNOWN_OR_WAITING:
                    del left[task.name]
                    await on_end(task, _ending(found))
            seconds = min(max(2 * seconds, FIRST_LOOK), LOOK)
            missing = [task.document(found["uid"]) for found, task in looked
                       if found["state"] == "UNKNOWN"]  # fmt: skip
            if missing:
                await self.site.ask(self.endpoint, partial(self._submit, missing))
                seconds = FIRST_LOOK

    async def _doubt(self, looked: Iterable[dict[str, Any]]) -> None:
        """Raise what asking the endpoint does, if that has gone with a task that was killed."""
        killed = [found["uid"] for found in looked if _was_killed(found)]
        if self.doubt is not None and killed:
            await self.doubt()
            await self.site.ask(self.endpoint, partial(self._find, killed, 0.0))

    async def give_up(self, tasks: Iterable[Task], on_end: OnEnd) -> None:
        """Cancel tasks, and tell of the end of those that had ended before."""
        await self.site.ask(self.endpoint, self.client.cancel_all_tasks)
        await self.count(0)
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


def _was_killed(found: dict[str, Any]) -> bool:
    """Tell whether a signal ended a task, also one that its shell or mpirun tells as 128 + n."""
    code = found.get("exit_code")
    return isinstance(code, int) and (code < 0 or code > KILLED)


def _is_lost(found: dict[str, Any]) -> bool:
    """Tell whether a task ended with its endpoint, or so long ago that its result is not kept."""
    return found["state"] == "GONE" or found.get("error") == LOST


def _ending(found: dict[str, Any]) -> Ending:
    stderr = str(found.get("stderr") or "").strip()
    began, ended = found.get("started") or 0.0, found.get("finished") or 0.0
    reason = str(found.get("error") or "") or f"it is {found['state']}"
    return Ending(str(found["state"]), began, ended, reason, stderr[-TAIL:])
