import anyio


async def until(condition, seconds=10.0):
    """Wait for a condition; it is looked at again and again until the deadline."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.005)
