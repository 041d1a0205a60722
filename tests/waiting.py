from inspect import isawaitable

import anyio


async def until(condition, seconds=10.0):
    """Wait for a condition, plain or asynchronous, looking again and again until the deadline."""
    with anyio.fail_after(seconds):
        while not (await found if isawaitable(found := condition()) else found):
            await anyio.sleep(0.005)
