"""Give out turns at a bounded pace: to callers, to endpoints that join, to lines in the log."""

import time

KEYS = 10_000
"""Keys that one limit remembers; the oldest is forgotten for one more."""


class RateLimit:
    """Give every key ``rate`` turns a second, and at once as many as ``burst`` seconds bring.

    It is a token bucket kept as one number for each key: the time at which all turns that were
    taken have been paid for (generic cell rate algorithm, ITU-T I.371, annex A).
    """

    __slots__ = ("_burst", "_clock", "_paid", "_step")

    def __init__(self, rate: float, burst: float) -> None:
        """Begin with every key rested; an infinite ``rate`` limits nothing."""
        self._step = 1 / rate
        self._burst = burst
        self._paid: dict[str, float] = {}
        self._clock = time.monotonic

    def take(self, key: str, patience: float = 0.0) -> float:
        """Return the seconds until the turn of ``key``: 0 for now.

        The turn is taken unless that is over ``patience``; then it is as if nobody had asked.
        """
        now = self._clock()
        paid = self._paid.get(key)
        if paid is None:
            self._make_room()
        if paid is None or paid < now:
            paid = now
        wait = max(0.0, paid - now - self._burst)
        if wait <= patience:
            self._paid[key] = paid + self._step
        return wait

    def _make_room(self) -> None:
        if len(self._paid) >= KEYS:
            del self._paid[next(iter(self._paid))]
