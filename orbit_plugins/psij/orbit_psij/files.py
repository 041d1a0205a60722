"""Know the files of one job: its output, and the marks by which it is found again after a restart.

A job runs under a small POSIX shell script, in a session of its own, so that it outlives the
endpoint. The script marks its start and its end in files: what these say is the truth about a job,
whatever was lost of the endpoint's memory.
"""

import codecs
import os
import re
import socket
from pathlib import Path
from typing import Literal

import attrs

StreamName = Literal["stdout", "stderr"]

READ_LIMIT = 1024 * 1024
"""Bytes of each stream that one status carries; the rest follows from its offset."""

TAIL_LIMIT = 64 * 1024
"""Bytes of each stream that the notification of a job's end carries: the last ones."""

MESSAGE_LIMIT = 2000

HOST = socket.gethostname()

WRAPPER = """\
#!/bin/sh
# Run one job of ORBIT: run-job.sh BASE PLACE MODE INPUT COMMAND [ARGUMENT...]
base=$1 place=$2 mode=$3 input=$4
shift 4
# Exclusive: whichever of two launches of one job comes second does not run it again.
set -C
echo "$$ $place" >"$base.start" || exit 125
set +C
# Handled, not ignored, which the job would inherit: the script must live to tell how it ended.
signalled=
trap "signalled=' signalled'" HUP INT QUIT TERM PIPE USR1 USR2
exec >"$base.log" 2>&1
# exec: the command is a program, never one of the shell's own words such as echo or exit.
if [ "$mode" = launcher ]; then
    (exec "$@" <"$input")
else
    (exec "$@" <"$input" >"$base.out" 2>"$base.err")
fi
code=$?
# One write with its line's end: a reader takes a line without it for unfinished.
echo "$code$signalled" >"$base.exit"
exit "$code"
"""

_START = re.compile(r"(\d+) (\S*)\n")
_EXIT = re.compile(r"(\d{1,3})( signalled)?\n")
_LAUNCHER_NOISE = "_PSI_J_LAUNCHER_DONE"


@attrs.frozen
class Start:
    """Say which process runs a job, and on which host or in which batch job."""

    pid: int
    place: str


@attrs.frozen
class Tail:
    """Hold the end of a stream as text."""

    text: str = ""
    is_truncated: bool = False


@attrs.frozen
class Ending:
    """Hold what a job left behind; ``exit_code`` is None if it did not get to tell."""

    exit_code: int | None
    words: str
    stdout: Tail
    stderr: Tail


@attrs.frozen
class JobFiles:
    """Find one job's files, which all begin with ``base``. Every method blocks on the disk."""

    base: Path

    def path(self, kind: str) -> Path:
        """Return the file of a kind: out, err, in, start, exit or log."""
        return self.base.with_name(f"{self.base.name}.{kind}")

    def stream(self, name: StreamName) -> Path:
        """Return the file of an output stream."""
        return self.path("out" if name == "stdout" else "err")

    def prepare(self, stdin: str | None, links: dict[StreamName, Path]) -> Path:
        """Make what a job needs before it starts, and return the file of its standard input.

        ``links`` are the files that the user wants an output stream in.
        """
        self.base.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, target in links.items():
            self.stream(name).unlink(missing_ok=True)
            self.stream(name).symlink_to(target)
        if stdin is None:
            return Path(os.devnull)
        self.path("in").write_text(stdin, encoding="utf-8", newline="")
        return self.path("in")

    def start(self) -> Start | None:
        """Return who runs the job, or None if it never started."""
        found = _START.fullmatch(_text(self.path("start")))
        return Start(int(found[1]), found[2]) if found else None

    def exit_code(self) -> int | None:
        """Return how the job ended, or None if it did not, or did not get to tell."""
        found = _EXIT.fullmatch(_text(self.path("exit")))
        return int(found[1]) if found else None

    def ended_well(self) -> bool:
        """Tell whether the job returned 0, and nobody tried to end it before."""
        found = _EXIT.fullmatch(_text(self.path("exit")))
        return found is not None and found.groups() == ("0", None)

    def element(self, index: int | str) -> "JobFiles":
        """Return the files of an element of a job array."""
        return JobFiles(self.base.with_name(f"{self.base.name}_{index}"))

    def ending(self) -> Ending:
        """Return what there is to tell of a job that is over."""
        lines = _text(self.path("log")).splitlines()
        words = "\n".join(line for line in lines if line.strip() != _LAUNCHER_NOISE)
        return Ending(
            self.exit_code(),
            words.strip()[:MESSAGE_LIMIT],
            read_tail(self.stream("stdout")),
            read_tail(self.stream("stderr")),
        )

    def remove(self) -> None:
        """Delete the files, and their directory after the last job's."""
        for kind in ("out", "err", "in", "start", "exit", "log", "job", "submit", "batch", "nodes"):
            self.path(kind).unlink(missing_ok=True)
        try:
            self.base.parent.rmdir()
        except OSError:
            return  # another job's files are in it, or it is gone already


def write_wrapper(directory: Path) -> Path:
    """Write the script under which jobs run, by renaming: shells may be reading an older one."""
    path = directory / "run-job.sh"
    draft = directory / "run-job.sh.new"
    draft.write_text(WRAPPER)
    draft.replace(path)
    return path


def read_part(path: Path, offset: int, limit: int) -> bytes:
    """Return up to ``limit`` bytes from ``offset``; nothing if there is no such file (any more)."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(limit)
    except FileNotFoundError:
        return b""


def read_text(path: Path, offset: int, *, is_final: bool) -> tuple[str, int]:
    """Return text from the byte ``offset`` on, at most `READ_LIMIT` bytes, and where it ends.

    A character that is not complete yet is held back unless ``is_final``; what is no UTF-8 becomes
    U+FFFD. An offset past the end answers with the end.
    """
    size = _size(path)
    start = min(offset, size)
    data = read_part(path, start, READ_LIMIT)
    at_end = start + len(data) >= size
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, is_final and at_end)
    held_back = len(decoder.getstate()[0])
    return text, start + len(data) - held_back


def read_tail(path: Path, limit: int = TAIL_LIMIT) -> Tail:
    """Return the last ``limit`` bytes as text, beginning with a whole character."""
    size = _size(path)
    data = read_part(path, max(0, size - limit), limit)
    if size <= limit:
        return Tail(data.decode("utf-8", "replace"))
    lead = next((index for index in range(4) if not _is_continuation(data[index : index + 1])), 0)
    return Tail(data[lead:].decode("utf-8", "replace"), is_truncated=True)


def _is_continuation(byte: bytes) -> bool:
    return b"\x80" <= byte < b"\xc0"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _text(path: Path) -> str:
    return read_part(path, 0, TAIL_LIMIT).decode("utf-8", "replace")
