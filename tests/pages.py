"""Run the commands of a documentation page as they stand there, in a folder that is a new home."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECTION = re.compile(r"^## (.+)\n", re.MULTILINE)
BLOCK = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)
PATIENCE = 90.0

WAIT = """
wait_for() { until grep -qs "$1" "$2"; do kill -0 $! || { cat "$2"; exit 1; }; sleep 0.05; done; }
set -euo pipefail
"""


def run_page(page: Path, home: Path, *, without: str = "", **replaced: str) -> str:
    """Run a page's indented blocks in one shell and return what they print.

    The section ``without`` is left out. What does not end by itself runs in the background and
    writes to ``1.log``, ``2.log`` and so on, in the order of the page. ``replaced`` has what stands
    for a host or port of the page, as ``{"_8000": "20123"}``.
    """
    text = page.read_text()
    for old, new in replaced.items():
        text = text.replace(old.removeprefix("_"), new)
    (home / "docs").symlink_to(ROOT / "docs")
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "ORBIT"))
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", "-c", WAIT + "\n".join(_commands(text, without))],
        cwd=home,
        env={**kept, "HOME": str(home), "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            said, _ = process.communicate(timeout=PATIENCE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said
    return said


def _commands(text: str, without: str) -> Iterator[str]:
    _, *parts = SECTION.split(text)
    logs = 0
    for title, section in zip(parts[::2], parts[1::2], strict=True):
        for block in BLOCK.findall(section) if title != without else []:
            command = "\n".join(line[4:] for line in block.rstrip("\n").split("\n"))
            if command.startswith("nohup orbit-serve"):
                yield f"kill $!; wait $! || true\n{command}\nwait_for ready: bridge.log"
            elif "orbit-serve" in command or "listen.py" in command:
                logs += 1
                sign = "ready:" if "orbit-serve" in command else "connected:"
                yield f"{command} > {logs}.log 2>&1 &\nwait_for {sign} {logs}.log"
            else:
                yield command
