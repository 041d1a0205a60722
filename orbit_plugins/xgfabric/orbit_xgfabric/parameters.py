"""Choose the winds to simulate from those that were measured.

A surrogate model is to be trained, so the simulations should cover what the wind does, not repeat
its most frequent state. The rule, which depends on nothing but the readings:

1. Readings are used whose speed is between 0.5 and 30 m/s and whose direction is between 0 and 360
   degrees; what occurs twice counts once.
2. The newest wind comes first: it is what the house sees now. Each next one is the measured wind
   that is farthest from all chosen before, as a vector in the plane, so that direction and speed
   count by the same measure (the maximin design of Kennard and Stone, Technometrics 11, 1969).
3. If there are fewer measured winds than simulations, the gaps between neighbours in speed are
   divided evenly, the widest first; the direction turns the shorter way from one neighbour to the
   other. The range of speeds is at least what an anemometer cannot tell apart, +-0.9 m/s around
   the newest, so that steady wind does not make all simulations the same.
"""

import heapq
import math
from collections.abc import Sequence
from itertools import pairwise

import attrs

from .errors import NoUsableWind
from .readings import Reading

LEAST_SPEED, MOST_SPEED = 0.5, 30.0
"""Speeds in m/s that can be simulated: a cup anemometer starts near the first."""

ACCURACY = 0.9
"""Metres per second that a station's anemometer may be off (Davis 6410: 2 mph)."""

CANDIDATES = 500
"""Different winds among which is chosen; of more, as many at even steps of their speed."""

_FULL_TURN = 360.0


@attrs.frozen
class Wind:
    """Hold a wind to simulate: m/s, and the degrees it comes from."""

    speed: float
    direction: float

    @property
    def vector(self) -> tuple[float, float]:
        """Return it as a vector in m/s."""
        angle = math.radians(self.direction)
        return self.speed * math.sin(angle), self.speed * math.cos(angle)


def choose(readings: Sequence[Reading], count: int) -> list[Wind]:
    """Return ``count`` winds to simulate, in the order in which they say most.

    Raises NoUsableWind.
    """
    newest_first = sorted(readings, key=lambda reading: -reading.dt)
    measured = list(dict.fromkeys(_wind(one.windspeed, one.winddir) for one in newest_first
                                  if _is_usable(one)))  # fmt: skip
    if not measured:
        raise NoUsableWind(
            f"none of {len(readings)} readings has a speed between {LEAST_SPEED} and "
            f"{MOST_SPEED:g} m/s and a direction between 0 and 360 degrees: check the sensor, and "
            "the field map and unit of its source"
        )
    chosen = _spread(_thinned(measured, max(count, CANDIDATES)), count)
    return [*chosen, *_between(chosen, count - len(chosen))]


def _is_usable(reading: Reading) -> bool:
    return LEAST_SPEED < reading.windspeed < MOST_SPEED and 0 <= reading.winddir <= _FULL_TURN


def _wind(speed: float, direction: float) -> Wind:
    """Return a wind whose numbers are as short as a file's name should have them."""
    return Wind(round(speed, 4), round(direction % _FULL_TURN, 2) % _FULL_TURN)


def _thinned(winds: list[Wind], most: int) -> list[Wind]:
    """Keep the first wind, and of too many others those at even steps of speed."""
    if len(winds) <= most:
        return winds
    first, *others = winds
    ordered = sorted(others, key=lambda wind: (wind.speed, wind.direction))
    step = (len(ordered) - 1) / (most - 2)
    return [first, *(ordered[round(number * step)] for number in range(most - 1))]


def _spread(winds: Sequence[Wind], count: int) -> list[Wind]:
    """Choose winds that are far from each other, beginning with the first.

    More than `CANDIDATES` simulations leave so little out that the newest are as good.
    """
    if len(winds) > CANDIDATES:
        return list(winds[:count])
    places = [wind.vector for wind in winds]
    nearest = [math.inf] * len(winds)
    chosen: list[Wind] = []
    latest = 0
    while len(chosen) < min(count, len(winds)):
        chosen.append(winds[latest])
        nearest = [
            min(d, math.dist(p, places[latest])) for d, p in zip(nearest, places, strict=True)
        ]
        nearest[latest] = -1.0
        latest = max(range(len(winds)), key=nearest.__getitem__)
    return chosen


def _between(winds: Sequence[Wind], count: int) -> list[Wind]:
    """Return ``count`` more winds: the ends of a range that is too narrow, then in its gaps."""
    ends = _ends(winds)[: max(count, 0)]
    ordered = sorted([*winds, *ends], key=lambda wind: (wind.speed, wind.direction))
    gaps = list(pairwise(ordered))
    parts = _parts([upper.speed - lower.speed for lower, upper in gaps], count - len(ends))
    inner = [
        _mixed(lower, upper, number / parted)
        for (lower, upper), parted in zip(gaps, parts, strict=True)
        for number in range(1, parted)
    ]
    return [*ends, *inner]


def _ends(winds: Sequence[Wind]) -> list[Wind]:
    newest = winds[0]
    low, high = (extreme(wind.speed for wind in winds) for extreme in (min, max))
    if high - low >= 2 * ACCURACY:
        return []
    wider = max(newest.speed - ACCURACY, LEAST_SPEED), min(newest.speed + ACCURACY, MOST_SPEED)
    return [_wind(speed, newest.direction) for speed in wider if not low <= speed <= high]


def _parts(widths: Sequence[float], count: int) -> list[int]:
    """Return into how many parts to divide each gap, so that the widest part is the narrowest."""
    parts = [1] * len(widths)
    queue = [(-width, number) for number, width in enumerate(widths)]
    heapq.heapify(queue)
    for _ in range(count):
        number = queue[0][1]
        parts[number] += 1
        heapq.heapreplace(queue, (-widths[number] / parts[number], number))
    return parts


def _mixed(lower: Wind, upper: Wind, share: float) -> Wind:
    """Return the wind at a share of the way from one to the other, turning the shorter way."""
    turn = (upper.direction - lower.direction + _FULL_TURN / 2) % _FULL_TURN - _FULL_TURN / 2
    speed = lower.speed + share * (upper.speed - lower.speed)
    return _wind(speed, lower.direction + share * turn)
