import sys
import threading
from collections.abc import Iterator

import anyio
import pytest
from orbit_sysinfo.probe import Probe

pytestmark = pytest.mark.anyio

HANG = """
import anyio, threading
from orbit_sysinfo.probe import Probe
print(anyio.run(Probe().call, "dead", threading.Event().wait, 0.1))
print("over")
"""


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


async def test_a_call_that_returns_gives_its_value() -> None:
    assert await Probe().call("quick", lambda: 7, 5) == 7


async def test_a_call_that_hangs_is_left_behind_and_not_repeated(gate: threading.Event) -> None:
    probe = Probe()
    started: list[int] = []

    def hang() -> int:
        started.append(1)
        gate.wait(60)
        return 1

    assert await probe.call("dead", hang, 0.1) is None
    assert await probe.call("dead", hang, 5) is None
    assert await probe.call("other", lambda: 2, 5) == 2
    assert started == [1]


async def test_a_call_that_came_back_may_be_made_again(gate: threading.Event) -> None:
    probe = Probe()
    assert await probe.call("slow", lambda: gate.wait(60), 0.1) is None
    gate.set()
    with anyio.fail_after(10):
        while await probe.call("slow", lambda: 3, 5) != 3:
            await anyio.lowlevel.checkpoint()


async def test_a_process_ends_although_a_call_hangs() -> None:
    with anyio.fail_after(30):
        done = await anyio.run_process([sys.executable, "-c", HANG])
    assert done.stdout.split() == [b"None", b"over"]


async def test_a_call_that_fails_answers_nothing_and_may_be_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", faults.append)
    probe = Probe()
    assert await probe.call("faulty", lambda: 1 // 0, 20) is None
    assert await probe.call("faulty", lambda: 1, 20) == 1
    with anyio.fail_after(20):
        while not faults:
            await anyio.lowlevel.checkpoint()
    assert [fault.exc_type for fault in faults] == [ZeroDivisionError]


def test_a_call_that_outlives_its_loop_harms_nothing(gate: threading.Event) -> None:
    anyio.run(Probe().call, "late", lambda: gate.wait(60), 0.1)
    (late,) = [thread for thread in threading.enumerate() if thread.name == "probe late"]
    gate.set()
    late.join(20)
    assert not late.is_alive()
