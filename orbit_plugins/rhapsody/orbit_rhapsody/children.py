"""Have the kernel tell a loop of the ends of its processes.

Python 3.11 starts a thread to wait for each process, which takes as long as starting the process;
later versions do what this module does.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVarTuple

Given = TypeVarTuple("Given")

REAPED_ELSEWHERE = 255
"""The exit code of a process whose own is not known, as in the standard library."""


def watch_children() -> None:
    """Have loops of the standard library do so, where Python does not and the kernel can."""
    if sys.version_info < (3, 12) and _has_descriptors():
        asyncio.set_child_watcher(_Watcher())


def _has_descriptors() -> bool:
    """Tell whether there is ``pidfd_open``, which Linux 5.3 brought."""
    with suppress(AttributeError, OSError):
        os.close(os.pidfd_open(os.getpid()))
        return True
    return False


if sys.version_info < (3, 12):

    class _Watcher(asyncio.PidfdChildWatcher):
        """Watch each process in the loop that started it: there may be several."""

        def is_active(self) -> bool:
            return True

        def attach_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
            """Do nothing: each process has its own."""

        def add_child_handler(
            self, pid: int, callback: Callable[[int, int, *Given], object], *args: *Given
        ) -> None:
            descriptor = os.pidfd_open(pid)
            loop = asyncio.get_running_loop()

            def end() -> None:
                loop.remove_reader(descriptor)
                os.close(descriptor)
                callback(pid, _exit_code(pid), *args)

            loop.add_reader(descriptor, end)


def _exit_code(pid: int) -> int:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return REAPED_ELSEWHERE
