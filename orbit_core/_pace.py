"""Hold callers to the bridge's rate: a little early is waited for, too early is refused."""

import logging
import math
import random

import anyio

from ._rates import RateLimit
from .errors import TooManyRequests

logger = logging.getLogger(__name__)

BURST = 1.0
"""Seconds' worth of requests that a caller may make at once."""

PACED = 0.02
"""Seconds for which a request over the rate may wait for its turn; later ones are refused."""

REFUSED = 0.25, 0.75
"""Bounds in seconds of the random time for which such a refusal is held back: who does not wait as
asked is slowed all the same, and its connections do not come all at once.
"""

_JITTER = random.SystemRandom()


class Pace:
    """Give callers their turns; a ``rate`` of 0 requests a second limits nobody."""

    def __init__(self, rate: float) -> None:
        """Begin with every caller rested."""
        self._rate = rate
        self._turns = RateLimit(rate or math.inf, BURST)
        self._warnings = RateLimit(1 / 60, 0)

    def take(self, caller: str) -> float:
        """Return the seconds until the caller's turn, mostly 0; else it has to `wait` for it."""
        return self._turns.take(caller, PACED)

    async def wait(self, caller: str, seconds: float) -> None:
        """Wait for a turn, or refuse one that is too far off. Raises TooManyRequests."""
        if seconds <= PACED:
            await anyio.sleep(seconds)
            return
        await anyio.sleep(_JITTER.uniform(*REFUSED))
        if not self._warnings.take(caller):
            logger.warning("%s asks too often: answering 429", caller)
        raise TooManyRequests(
            f"you make more than {self._rate:g} requests a second: wait", retry_after=seconds
        )
