"""Wait to be told to stop."""

import signal

import anyio


async def until_told(stopped: anyio.Event) -> None:
    """Wait for SIGTERM, SIGINT or ``stopped``."""
    async with anyio.create_task_group() as group:
        listening = anyio.CancelScope()

        async def listen() -> None:
            with (
                listening,
                anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals,
            ):
                async for _ in signals:
                    stopped.set()

        group.start_soon(listen)
        await stopped.wait()
        listening.cancel()
