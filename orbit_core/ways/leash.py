"""Run a command that ends with the process that wants it: leash.py PARENT COMMAND...

It is run by its path, without the package, so that it starts at once. On Linux the kernel sends
SIGTERM when the parent is gone (PR_SET_PDEATHSIG, prctl(2)), however that happened.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the command, unless the parent is gone already."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("its parent is gone")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
