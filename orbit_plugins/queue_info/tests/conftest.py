import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

_SCRIPT = """#!/bin/sh
echo "$(basename "$0") $*" >> '{folder}/calls'
for sample in '{folder}/{name}.'*; do
    part=$(cat "$sample/part")
    case "$*" in *"$part"*)
        cat "$sample/stdout"
        cat "$sample/stderr" >&2
        exit "$(cat "$sample/status")"
    esac
done
echo "unexpected: $0 $*" >&2
exit 1
"""


class Scheduler:
    """Stand for a scheduler's commands on PATH, which answer with samples."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 1000

    def answer(
        self, name: str, text: str = "", *, to: str = "", status: int = 0, stderr: str = ""
    ) -> None:
        """Have a command answer so if ``to`` stands in its arguments; the last one counts."""
        self._count -= 1
        home = self.folder / f"{name}.{self._count}"
        home.mkdir()
        for part, content in (
            ("part", to),
            ("stdout", text),
            ("stderr", stderr),
            ("status", str(status)),
        ):
            (home / part).write_text(content)
        self.install(name, _SCRIPT.format(folder=self.folder, name=name))

    def install(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(script)
        path.chmod(0o755)

    def calls(self, name: str = "") -> list[str]:
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(name)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail a test in which this plugin blocks the loop."""
    with blockbuster_ctx("orbit_queue_info") as found:
        # What measures coverage has a lock of its own, which the threads of many files hold, too.
        found.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
        yield found


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Read the scheduler's local times as UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    folder = tmp_path / "scheduler"
    (folder / "bin").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
    for name in ("SLURM_JOB_ID", "PBS_JOBID"):
        monkeypatch.delenv(name, raising=False)
    return Scheduler(folder)
