import threading
from collections.abc import Iterator

import anyio
import pytest
from orbit_sysinfo.probe import Probe

pytestmark = pytest.mark.anyio


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
