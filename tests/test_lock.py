import json
import os
import socket
import subprocess
import sys

import anyio
import pytest

from orbit_core import _lock
from orbit_core._lock import LOCK_REFRESH, DirectoryLock
from orbit_core.errors import StateInUse

HOLD = """
import sys
from pathlib import Path
from orbit_core._lock import DirectoryLock
DirectoryLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path):
    return DirectoryLock(tmp_path / "lock")


@pytest.fixture
def holder(lock):
    command = [sys.executable, "-c", HOLD, str(lock.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def hold(lock, age=0.0, **holder):
    lock.path.write_text(json.dumps({"host": "elsewhere", "pid": 7, "started": "x"} | holder))
    then = lock.path.stat().st_mtime - age
    os.utime(lock.path, (then, then))


def test_a_free_directory_is_held_until_it_is_released(lock):
    lock.acquire()
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    assert lock.path.stat().st_mode & 0o777 == 0o600
    lock.release()
    assert not lock.path.exists()
    lock.release()


def test_a_directory_that_a_living_process_holds_is_refused_and_says_who(lock, holder):
    with pytest.raises(StateInUse) as told:
        lock.acquire()

    assert told.value.code == "state_in_use"
    assert told.value.detail == (
        f"{lock.path.parent} is in use by process {holder.pid} on host {socket.gethostname()}: "
        "stop it, or name another directory with --state-dir"
    )


def test_the_lock_of_a_process_that_died_is_taken_over(lock, holder):
    holder.kill()
    holder.wait()
    lock.acquire()

    assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    assert os.listdir(lock.path.parent) == ["lock"]


def test_the_lock_of_a_process_whose_number_was_given_again_is_taken_over(lock):
    hold(lock, host=socket.gethostname(), pid=os.getpid(), started="another boot 1")
    lock.acquire()

    assert json.loads(lock.path.read_text())["started"] != "another boot 1"


def test_a_fresh_lock_of_another_host_is_respected(lock):
    hold(lock, age=5 * LOCK_REFRESH)
    with pytest.raises(StateInUse, match=r"is in use by process 7 on host elsewhere: stop it"):
        lock.acquire()

    assert os.listdir(lock.path.parent) == ["lock"]


def test_a_lock_of_another_host_that_nobody_touched_is_taken_over(lock):
    hold(lock, age=6 * LOCK_REFRESH + 1)
    lock.acquire()

    assert json.loads(lock.path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("text", ["", "[1]", "{", "null"])
def test_an_unreadable_lock_is_taken_over_only_when_it_is_old(lock, text):
    lock.path.write_text(text)
    with pytest.raises(StateInUse):
        lock.acquire()
    os.utime(lock.path, (0, 0))
    lock.acquire()

    assert json.loads(lock.path.read_text())["pid"] == os.getpid()


def test_a_lock_that_vanishes_while_it_is_looked_at_is_taken(lock):
    assert lock._age() == float("inf")
    lock._clear({})
    lock.acquire()


def test_a_lock_that_was_replaced_since_it_was_read_is_respected(lock):
    hold(lock, pid=8)
    with pytest.raises(StateInUse, match=r" was taken by another process just now$"):
        lock._clear({"host": "elsewhere", "pid": 7, "started": "x"})

    assert json.loads(lock.path.read_text())["pid"] == 8


def test_a_lock_that_another_takes_first_is_respected(lock, monkeypatch):
    hold(lock, age=1000)
    rename = type(lock.path).rename

    def rename_and_lose(path, target):
        rename(path, target)
        hold(lock, pid=9)

    with monkeypatch.context() as patch:
        patch.setattr(type(lock.path), "rename", rename_and_lose)
        with pytest.raises(StateInUse, match=r" was taken by another process just now$"):
            lock.acquire()
    assert json.loads(lock.path.read_text())["pid"] == 9


def test_a_lock_of_somebody_else_is_not_released(lock):
    hold(lock)
    lock.release()

    assert lock.path.exists()


def test_touching_keeps_a_lock_fresh_and_brings_back_a_lost_one(lock):
    lock.acquire()
    os.utime(lock.path, (0, 0))
    lock.touch()
    assert lock.path.stat().st_mtime > 0
    lock.path.unlink()
    lock.touch()
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()


def test_touching_notices_that_another_took_the_directory(lock):
    lock.acquire()
    hold(lock)
    with pytest.raises(StateInUse, match=r" was taken by another process just now$"):
        lock.touch()


def test_a_passing_fault_while_touching_is_only_logged(lock, caplog):
    lock.path.write_text("{")
    lock.touch()

    assert f"the lock {lock.path} cannot be refreshed" in caplog.text


def test_a_disk_that_is_full_leaves_no_lock_that_names_nobody(lock, monkeypatch):
    def full(identity, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_lock.json, "dump", full)
    with pytest.raises(OSError, match=r"No space left on device"):
        lock.acquire()

    assert not lock.path.exists()


@pytest.mark.anyio
async def test_refreshing_ends_when_another_took_the_directory(lock, monkeypatch):
    monkeypatch.setattr(_lock, "LOCK_REFRESH", 0.0)
    lock.acquire()
    hold(lock)
    with anyio.fail_after(10), pytest.raises(StateInUse):
        await lock.refresh()
