"""Run a scheduler's commands, which may be slow, silent, broken or endless."""

import logging
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from subprocess import DEVNULL

import anyio
import attrs
from anyio.abc import Process

from .errors import OutputTooLarge, SchedulerFailed, SchedulerUnavailable

logger = logging.getLogger(__name__)

DEADLINE = 10.0
"""Seconds that a command has, unless told otherwise."""

KILL_PATIENCE = 2.0
"""Seconds in which a killed command is gone, unless it hangs in the kernel, as on a dead mount."""

LIMIT = 64 * 1024 * 1024
"""Bytes of output that are read, unless told otherwise."""


@attrs.frozen
class Output:
    """Hold what a command said; ``status`` is its exit status."""

    command: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    def check(self) -> str:
        """Return what it printed. Raises SchedulerFailed, with its own words, if it failed."""
        if self.status:
            raise SchedulerFailed(f"{_shown(self.command)}: {self.complaint}")
        return self.stdout

    @property
    def complaint(self) -> str:
        """Return what it complained of, in one line."""
        words = " ".join((self.stderr.strip() or self.stdout.strip()).split())
        return words[:500] or f"ended with exit status {self.status}"


async def run(
    *command: str,
    deadline: float = DEADLINE,
    limit: int = LIMIT,
    environment: Mapping[str, str] | None = None,
) -> Output:
    """Run a command, without a shell and in the C locale, and return what it said.

    Raises SchedulerUnavailable if it cannot be started or is not over in time, and OutputTooLarge;
    in both cases it is killed with all its children.
    """
    settings = {**os.environ, **(environment or {}), "LC_ALL": "C"}
    try:
        with anyio.CancelScope(shield=True):  # a process that nobody holds would stay
            process = await anyio.open_process(
                command, stdin=DEVNULL, env=settings, start_new_session=True
            )
    except OSError as error:
        raise SchedulerUnavailable(f"{command[0]} cannot be started: {error}") from None

    texts = {"stdout": bytearray(), "stderr": bytearray()}
    try:
        with anyio.fail_after(deadline):
            async with anyio.create_task_group() as group:
                for name, text in texts.items():
                    group.start_soon(_read, process, name, text, limit)
            status = await process.wait()
    except TimeoutError:
        raise SchedulerUnavailable(f"{_shown(command)}: no answer within {deadline:g} s") from None
    finally:
        await _let_go(process, command)
    if any(len(text) > limit for text in texts.values()):
        raise OutputTooLarge(f"{_shown(command)}: more than {limit} bytes of output")
    stdout, stderr = (bytes(text).decode(errors="replace") for text in texts.values())
    return Output(command, status, stdout, stderr)


async def _read(process: Process, name: str, text: bytearray, limit: int) -> None:
    """Read to the end, or kill the writer of more than ``limit``."""
    async for chunk in getattr(process, name):
        text += chunk
        if len(text) > limit:
            _kill(process)
            return


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _let_go(process: Process, command: tuple[str, ...]) -> None:
    """Close the pipes and leave no process behind, but one that hangs in the kernel."""
    if process.returncode is None:
        _kill(process)
    with anyio.move_on_after(KILL_PATIENCE, shield=True):
        await process.wait()
        await process.aclose()  # which would wait for the process's end, whatever comes
        return
    logger.warning("%s cannot be killed: it is left behind", _shown(command))


def _shown(command: tuple[str, ...]) -> str:
    return " ".join(command)[:200]
