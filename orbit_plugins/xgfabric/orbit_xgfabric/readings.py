"""Hold wind data: rows of ``dt,windspeed,windavg,winddir`` in s, m/s, m/s and degrees."""

import csv
import io
import math
from collections.abc import Iterable
from datetime import UTC, datetime

import attrs

from .errors import InvalidReplay
from .models import Continuous

HEADER = ("dt", "windspeed", "windavg", "winddir")


@attrs.frozen
class Reading:
    """Hold one measurement of the wind.

    ``dt`` is its time in seconds since the epoch, the speeds are in m/s, and ``winddir`` is where
    the wind comes from, in degrees clockwise from north.
    """

    dt: float
    windspeed: float
    windavg: float
    winddir: float


def to_csv(readings: Iterable[Reading]) -> str:
    """Return readings as CSV with a heading, oldest first."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(HEADER)
    for one in sorted(readings, key=lambda reading: reading.dt):
        values = (one.windspeed, one.windavg, one.winddir)
        rows.writerow([f"{one.dt:.3f}", *(f"{value:.4f}" for value in values)])
    return text.getvalue()


def from_csv(text: str, where: str) -> list[Reading]:
    """Return the readings of CSV text; ``dt`` may also be ISO 8601, in UTC if it names no zone.

    Raises InvalidReplay, naming ``where`` and the line.
    """
    rows = csv.reader(io.StringIO(text.removeprefix("\N{BOM}")), strict=True)
    try:
        heading = tuple(cell.strip() for cell in next(rows, ()))
        if heading != HEADER:
            raise ValueError(f"the heading must be {','.join(HEADER)}")
        found = [_reading(row) for row in rows if row]
    except (ValueError, csv.Error) as error:
        raise InvalidReplay(f"{where}, line {max(rows.line_num, 1)}: {error}") from None
    if not found:
        raise InvalidReplay(f"{where}: there is no row below the heading")
    return found


def _reading(row: list[str]) -> Reading:
    if len(row) != len(HEADER):
        raise ValueError(f"expected {len(HEADER)} values, got {len(row)}")
    return Reading(_time(row[0]), *map(_number, HEADER[1:], row[1:]))


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} is no number")
    return value


def _time(text: str) -> float:
    try:
        return _number("dt", text)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError("dt is neither seconds since the epoch nor ISO 8601") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def is_change(before: Reading, after: Reading, rule: Continuous) -> bool:
    """Tell whether the wind changed by as much as ``rule`` says, the shorter way around."""
    turn = abs((after.winddir - before.winddir + 180.0) % 360.0 - 180.0)
    speed = abs(after.windspeed - before.windspeed)
    return speed >= rule.speed_change or turn >= rule.direction_change
