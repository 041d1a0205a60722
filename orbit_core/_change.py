"""Wait for something to change."""

import anyio


class Change:
    """Wake who waits; to tell of a change costs next to nothing while nobody does."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        """Begin with nobody waiting."""
        self._event: anyio.Event | None = None

    async def wait(self) -> None:
        """Wait for the next change; one that was told of before is not seen."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()

    def tell(self) -> None:
        """Wake everybody who waits."""
        if self._event is not None:
            event, self._event = self._event, None
            event.set()
