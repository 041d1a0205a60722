"""Find and end the processes of a local job. Every function blocks shortly, save `until_exit`.

A process is a job's if its command line names the job's files: the job's id is in them, so that a
process id which went to somebody else after a reboot is never taken for the job.
"""

import errno
import os
import signal
from contextlib import suppress
from pathlib import Path

import anyio
import psutil

from .files import HOST, JobFiles, Start


async def until_exit(pid: int) -> None:
    """Wait until a process has ended, even if it is not waited for.

    Raises OSError if there is none, or the kernel or this Python cannot tell (pidfd_open(2), from
    Linux 5.3 on; some builds of Python leave it out).
    """
    pidfd_open = getattr(os, "pidfd_open", None)
    if pidfd_open is None:
        raise OSError(errno.ENOSYS, "this Python has no pidfd_open")
    handle: int = pidfd_open(pid)
    try:
        await anyio.wait_readable(handle)
    finally:
        os.close(handle)


def is_running(files: JobFiles, start: Start) -> bool:
    """Tell whether the script of a job still runs.

    On another host, which may share the files, that cannot be seen: then it does until its files
    say otherwise.
    """
    return start.place != HOST or _is_job(files.base, start.pid)


def send_signal(files: JobFiles, native_id: str | None, number: signal.Signals) -> None:
    """Send a signal to all processes of a job: its process group, and descendants that left it.

    ``native_id`` serves where the job has not marked its start yet.
    """
    start = files.start()
    pid = start.pid if start is not None else int(native_id or 0)
    if (start is not None and start.place != HOST) or not _is_job(files.base, pid):
        return
    for descendant in _outside_group(pid):
        with suppress(psutil.NoSuchProcess):
            descendant.send_signal(number)
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        with suppress(ProcessLookupError):
            os.kill(pid, number)  # it has not become the leader of its group yet


def _is_job(base: Path, pid: int) -> bool:
    try:
        return str(base) in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def _outside_group(pid: int) -> list[psutil.Process]:
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(ProcessLookupError):
                if os.getpgid(process.pid) != pid:
                    found.append(process)
    return found
