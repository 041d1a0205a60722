"""Hold one job in memory, and judge how it ended."""

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import attrs

from .files import Ending, JobFiles
from .models import JobRecord, JobState

Notify = Callable[[str, Any], None]


def silent(topic: str, data: Any) -> None:
    """Tell nobody."""


@attrs.define(eq=False)
class Job:
    """Be one job: its record, its files, and who hears of it.

    ``is_launched`` says that a process may exist, ``is_settling`` that its end is looked into.
    """

    record: JobRecord
    files: JobFiles
    notify: Notify = silent
    is_launched: bool = False
    is_settling: bool = False
    _changed: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    def advance(self, **changes: Any) -> None:
        """Change the record and wake whoever waits for that."""
        self.record = attrs.evolve(self.record, **changes)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def change(self) -> None:
        """Wait for the next change of the record."""
        await self._changed.wait()

    async def until_over(self) -> None:
        """Wait for the job's end."""
        while not self.record.state.is_final:
            await self._changed.wait()


@attrs.frozen
class Verdict:
    """Say how a job ended."""

    state: JobState
    exit_code: int | None
    message: str | None


def judge(record: JobRecord, ending: Ending, exit_code: int | None, message: str | None) -> Verdict:
    """Decide how a job ended: its own exit file counts before what its executor says.

    ``exit_code`` and ``message`` are the executor's. A job whose user cancelled it is CANCELED,
    whatever it returned. Exit codes are a shell's: 128 + n after signal n.
    """
    if ending.exit_code is not None:
        exit_code = ending.exit_code
    elif exit_code is not None and exit_code < 0:
        exit_code = 128 - exit_code
    if record.cancel_requested:
        return Verdict(JobState.CANCELED, exit_code, "cancelled by its user")
    if exit_code == 0:
        return Verdict(JobState.COMPLETED, 0, None)
    said = ending.words or (message if ending.exit_code is None else None)
    if exit_code is None:
        return Verdict(JobState.FAILED, None, said or "ended without an exit code")
    return Verdict(JobState.FAILED, exit_code, _reason(exit_code, said))


def _reason(exit_code: int, said: str | None) -> str:
    reason = f"exit code {exit_code}"
    with suppress(ValueError):
        reason += f", as after {signal.Signals(exit_code - 128).name}"
    return f"{reason}: {said}" if said else reason


def news_of(record: JobRecord, ending: Ending | None = None) -> dict[str, Any]:
    """Return what a ``job_status`` notification says; output comes with a job's end only.

    ``stdout_truncated`` and ``stderr_truncated`` are there, and true, where only the last
    `orbit_psij.files.TAIL_LIMIT` bytes are.
    """
    news: dict[str, Any] = {
        "job_id": record.job_id,
        "state": str(record.state),
        "exit_code": record.exit_code,
        "stdout": ending.stdout.text if ending else "",
        "stderr": ending.stderr.text if ending else "",
    }
    if ending and ending.stdout.is_truncated:
        news["stdout_truncated"] = True
    if ending and ending.stderr.is_truncated:
        news["stderr_truncated"] = True
    return news
