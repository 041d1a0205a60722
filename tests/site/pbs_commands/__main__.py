"""Be qsub, qstat, qdel, qhold, qrls or pbsnodes of OpenPBS 23.06, over SLURM.

Jobs, states and exit codes are real; only the command lines and the output are imitated.
"""

import sys

from control import qdel, qhold, qrls
from nodes import pbsnodes
from status import qstat
from submit import qsub

COMMANDS = {
    "qsub": qsub, "qstat": qstat, "qdel": qdel, "qhold": qhold, "qrls": qrls, "pbsnodes": pbsnodes,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(COMMANDS[sys.argv[1]](sys.argv[2:]))
