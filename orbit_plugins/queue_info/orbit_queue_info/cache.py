"""Ask the scheduler seldom, however many ask us."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

import anyio
import attrs

from orbit_core.errors import OrbitError

logger = logging.getLogger(__name__)

T = TypeVar("T")

QUERY_INTERVAL = 10.0
"""Seconds between two queries of one kind, at least, whoever asks and however urgently."""


MANY = 100
"""Answers of which those that are too old are kept."""


class Background(Protocol):
    """Start a task that outlives the request that needs it."""

    def __call__(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Start ``function(*args)``."""
        ...


@attrs.frozen
class Answer(Generic[T]):
    """Hold what the scheduler answered, and how many seconds ago it was asked."""

    value: T
    age: float


@attrs.define(eq=False)
class _Flight:
    """Be one query, under way or over."""

    started: float
    landed: anyio.Event = attrs.field(factory=anyio.Event)
    value: Any = None
    error: OrbitError | None = None


class Cache:
    """Keep one answer a kind, and have one query a kind under way at most.

    A query goes on when the request that began it is cancelled, and its failure is an answer too.
    """

    def __init__(self, background: Background, ttl: float = QUERY_INTERVAL) -> None:
        """Take what starts tasks, and the seconds that an answer is good for."""
        self._background = background
        self._ttl = max(ttl, QUERY_INTERVAL)
        self._flights: dict[str, _Flight] = {}

    async def get(
        self, kind: str, collect: Callable[[], Awaitable[T]], *, force: bool = False
    ) -> Answer[T]:
        """Return the answer to ``collect``; ``force`` wants one of the last 10 s.

        Raises what ``collect`` raised, an OrbitError.
        """
        now = _now()
        self._forget(now)
        flight = self._flights.get(kind)
        if flight is None or (flight.landed.is_set() and now - flight.started >= self._good(force)):
            flight = self._flights[kind] = _Flight(now)
            self._background(_fly, flight, collect)
        await flight.landed.wait()
        if flight.error is not None:
            raise flight.error.with_traceback(None)
        return Answer(flight.value, round(_now() - flight.started, 3))

    def _forget(self, now: float) -> None:
        """Drop what is too old, when many kinds of question have been asked."""
        if len(self._flights) > MANY:
            self._flights = {
                kind: flight
                for kind, flight in self._flights.items()
                if not flight.landed.is_set() or now - flight.started < self._ttl
            }

    def _good(self, force: bool) -> float:
        return QUERY_INTERVAL if force else self._ttl


def _now() -> float:
    return anyio.current_time()


async def _fly(flight: _Flight, collect: Callable[[], Awaitable[Any]]) -> None:
    try:
        flight.value = await collect()
    except OrbitError as error:
        flight.error = error
    except Exception:  # what a scheduler prints may surprise a parser in any way
        logger.exception("the scheduler's answer cannot be read")
        flight.error = OrbitError("the scheduler's answer cannot be read; the log has the details")
    finally:
        flight.landed.set()
