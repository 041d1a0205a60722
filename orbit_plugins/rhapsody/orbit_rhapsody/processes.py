"""Find and end the processes of executables, which carry their task's mark in their environment.

RHAPSODY gives a cancelled executable up and leaves its processes running. The mark is inherited, so
that it also finds what left the process group, and what a killed endpoint left behind. Every
function blocks.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

VARIABLE = "ORBIT_TASK"
POLL = 0.02


def end_processes(wanted: Callable[[str], bool], grace: float) -> int:
    """End every process whose mark is ``wanted``, and return how many there were.

    They are asked to (SIGTERM), and killed if they are still there ``grace`` seconds later.
    """
    ended = 0
    for number in (signal.SIGTERM, signal.SIGKILL):
        processes = _find(wanted)
        ended = max(ended, len(processes))
        for process in processes:
            with suppress(psutil.Error):
                process.send_signal(number)
        give_up = time.monotonic() + grace
        while any(map(_is_there, processes)) and time.monotonic() < give_up:
            time.sleep(POLL)
    return ended


def _find(wanted: Callable[[str], bool]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # another user's, or gone meanwhile
            mark = process.environ().get(VARIABLE)
            if mark is not None and process.pid != os.getpid() and wanted(mark):
                found.append(process)
    return found


def _is_there(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
