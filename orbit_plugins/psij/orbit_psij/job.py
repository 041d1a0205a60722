"""Hold one job in memory, and judge how it ended."""

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import attrs

from orbit_core.batch import Failure, FailureCause, JobReport
from orbit_core.batch import JobState as BatchState

from .files import Ending, JobFiles
from .models import JobRecord, JobState

Notify = Callable[[str, Any], None]


def silent(topic: str, data: Any) -> None:
    """Tell nobody."""


@attrs.frozen
class Report:
    """Carry what PSI/J says of a job."""

    job_id: str
    state: JobState
    time: float
    exit_code: int | None = None
    message: str | None = None


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

    def every_files(self) -> list[JobFiles]:
        """Return the job's files, and those of each element of a job array."""
        return [self.files, *(self.files.element(found.index) for found in self.record.elements)]

    def is_over(self, index: int | None = None) -> bool:
        """Tell whether the job is over, or that element of a job array."""
        state = self.record.state if index is None else self.record.elements[index].state
        return state.is_final or self.record.state.is_final

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
    """Say how a job ended, and why if that was not well."""

    state: JobState
    exit_code: int | None
    message: str | None
    failure: Failure | None = None


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
        return _cancelled(record, exit_code)
    if exit_code == 0:
        return Verdict(JobState.COMPLETED, 0, None)
    said = ending.words or (message if ending.exit_code is None else None)
    if exit_code is None:
        failure = Failure(FailureCause.OTHER, detail=said or "")
        return Verdict(JobState.FAILED, None, said or "ended without an exit code", failure)
    return Verdict(JobState.FAILED, exit_code, _reason(exit_code, said), _failure_of(exit_code))


def judge_batch(record: JobRecord, ending: Ending, report: JobReport | None) -> Verdict:
    """Decide how a batch job ended; ``report`` is its scheduler's, None if that does not tell.

    What the scheduler did to it counts before its exit code, which is only how it died of that.
    """
    failure = report.failure if report is not None else None
    exit_code = ending.exit_code
    if exit_code is None and report is not None:
        exit_code = 0 if report.state is BatchState.DONE else report.exit_code or None
    if record.cancel_requested:
        return _cancelled(record, exit_code)
    if failure is None or (failure.cause in _PLAIN and exit_code is not None):
        found = attrs.evolve(ending, exit_code=exit_code)
        said = _FORGOTTEN if report is None else f"{_SILENT} {report.native_state}"
        return judge(record, found, None, said if exit_code is None else None)
    is_cancelled = failure.cause is FailureCause.CANCELLED
    state = JobState.CANCELED if is_cancelled else JobState.FAILED
    return Verdict(state, exit_code, str(failure), failure)


_PLAIN = (FailureCause.EXIT_CODE, FailureCause.SIGNAL)

_FORGOTTEN = "the scheduler knows the job no more, and it left no exit code"

_SILENT = "the job left no exit code, and of its end the scheduler says no more than"


def _cancelled(record: JobRecord, exit_code: int | None) -> Verdict:
    if record.error is not None:
        failure = Failure(FailureCause.OTHER, detail=record.error)
        return Verdict(JobState.FAILED, exit_code, record.error, failure)
    failure = Failure(FailureCause.CANCELLED, detail="by its user")
    return Verdict(JobState.CANCELED, exit_code, "cancelled by its user", failure)


def _failure_of(exit_code: int) -> Failure:
    try:
        number = signal.Signals(exit_code - 128)
    except ValueError:
        return Failure(FailureCause.EXIT_CODE, exit_code=exit_code)
    return Failure(FailureCause.SIGNAL, exit_code=exit_code, signal=number)


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
        "message": record.message,
        "failure": None if record.failure is None else attrs.asdict(record.failure),
        **({} if record.error is None else {"error": record.error}),
        "stdout": ending.stdout.text if ending else "",
        "stderr": ending.stderr.text if ending else "",
    }
    if ending and ending.stdout.is_truncated:
        news["stdout_truncated"] = True
    if ending and ending.stderr.is_truncated:
        news["stderr_truncated"] = True
    return news
