import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from orbit_core import _memory
from tests.waiting import until

MIB = 2**20


def resident():
    """Return this process's bytes in memory (proc(5), statm)."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def leave_holes():
    """Return what keeps the C library from giving back some 100 MiB that are free."""
    blocks = [bytearray(4000) for _ in range(25_000)]
    return blocks[::100]


def test_what_is_free_is_given_back():
    kept = leave_holes()
    before = resident()
    _memory.give_back()

    assert before - resident() > 50 * MIB
    assert len(kept) == 250


@pytest.mark.anyio
async def test_it_is_given_back_again_and_again(monkeypatch):
    monkeypatch.setattr(_memory, "TRIM_INTERVAL", 0.001)
    async with anyio.create_task_group() as group:
        group.start_soon(_memory.keep_giving_back)
        for _ in range(2):
            kept = leave_holes()
            before = resident()
            await until(lambda before=before: before - resident() > 50 * MIB)
            assert len(kept) == 250
        group.cancel_scope.cancel()


def test_a_c_library_that_cannot_give_back_is_left_alone(monkeypatch):
    monkeypatch.setattr(_memory, "_trim", None)

    _memory.give_back()


PARTS = """
import resource
from orbit_core import _memory

def pass_parts():
    parts = [b"x" * 2**18 for _ in range(16)]

_memory.keep_at_hand()
pass_parts()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    pass_parts()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_the_memory_of_a_large_body_is_used_again():
    run = subprocess.run([sys.executable, "-c", PARTS], capture_output=True, text=True, check=True)

    assert int(run.stdout) < 1000  # page faults; each of the 20 rounds touches 1024 pages


def test_a_c_library_without_such_settings_is_left_alone(monkeypatch):
    monkeypatch.setattr(_memory, "_set", None)

    _memory.keep_at_hand()
