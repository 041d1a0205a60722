import logging
import threading

import anyio
import anyio.lowlevel
import pytest

from orbit_core._watchdog import BEAT, STALL, watch_loop

pytestmark = pytest.mark.anyio


class Heard(logging.Handler):
    def __init__(self):
        super().__init__()
        self.said = []
        self.something = threading.Event()

    def emit(self, record):
        self.said.append(record.getMessage())
        self.something.set()


@pytest.fixture
def heard():
    handler, logger = Heard(), logging.getLogger("orbit_core._watchdog")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


async def block_until(event, seconds=10.0):
    assert event.wait(seconds)


async def test_who_blocks_the_loop_is_logged_once_with_the_stack_while_it_happens(heard):
    async with watch_loop():
        await anyio.lowlevel.checkpoint()
        await block_until(heard.something)
        threading.Event().wait(2 * STALL)  # still the same stall
    assert len(heard.said) == 1
    assert heard.said[0].startswith("the event loop has not turned for ")
    assert "in block_until" in heard.said[0]


async def test_each_stall_is_logged(heard):
    async with watch_loop():
        for _ in range(2):
            await anyio.sleep(2 * BEAT)
            heard.something.clear()
            await block_until(heard.something)
    assert len(heard.said) == 2


async def test_the_watch_ends_with_its_context_and_passes_failures_on():
    with pytest.raises(KeyError):
        async with watch_loop():
            raise KeyError
    assert "orbit-watchdog" not in [thread.name for thread in threading.enumerate()]
