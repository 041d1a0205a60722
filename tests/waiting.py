from inspect import isawaitable

import anyio


async def until(condition, seconds=10.0):
    """Wait for a condition, plain or asynchronous, looking again and again until the deadline."""
    with anyio.fail_after(seconds):
        while not (await found if isawaitable(found := condition()) else found):
            await anyio.sleep(0.005)


async def until_still(value, seconds=0.3):
    """Wait until a value has not changed for so many seconds."""
    before = object()
    while (now := value()) != before:
        before = now
        await anyio.sleep(seconds)
