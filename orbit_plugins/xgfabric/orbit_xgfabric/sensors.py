"""Acquire wind data: from a file, made up, or from the sensors' logs."""

import math
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread
import attrs

from . import senspot
from .errors import GarbledSensor, InvalidReplay, SensorError, SenspotTimeout, StaleSensor
from .models import SensorSource, SpeedUnit, WorkflowConfig
from .readings import Reading, from_csv

METRES_PER_SECOND: dict[SpeedUnit, float] = {
    "m/s": 1.0,
    "mph": 0.44704,
    "km/h": 1 / 3.6,
    "kn": 1852 / 3600,
}

AT_ONCE = 8
"""Records that are read at the same time, of all sources together."""

PROBLEMS_TOLD = 5

REPLAY_LIMIT = 64 * 1024 * 1024
"""Bytes that a file to replay may have."""

LEAST_ROWS, STEP = 8, 300.0
"""Rows of made-up data, at least, and the seconds between them."""


@attrs.frozen
class Acquisition:
    """Hold what was acquired, oldest first.

    ``newest`` has the number of each log's newest record. ``problems`` says in sentences what could
    not be had though something could.
    """

    readings: list[Reading]
    origin: Literal["replay", "mock", "sensors"]
    newest: dict[str, int] = attrs.field(factory=dict)
    problems: list[str] = attrs.field(factory=list)


async def acquire(config: WorkflowConfig, workdir: Path) -> Acquisition:
    """Return the wind data of a workflow whose work directory is ``workdir``.

    As long as one record can be had, what is missing is told in ``problems``. Raises the first
    SensorError if there is none.
    """
    if config.replay is not None:
        found = await anyio.to_thread.run_sync(read_replay, workdir, config.replay)
        return Acquisition(found, "replay")
    if config.mock_sensor_data:
        rows = max(config.num_simulations, LEAST_ROWS)
        return Acquisition(made_up(rows, time.time()), "mock")
    program = await anyio.to_thread.run_sync(senspot.find_program)
    return await _Sensors(config, program).acquire()


async def look(config: WorkflowConfig, workdir: Path) -> Acquisition:
    """Return the newest reading of each source alone. Raises what `acquire` does."""
    sources = [attrs.evolve(source, limit=1) for source in sources_of(config)]
    found = await acquire(attrs.evolve(config, sources=sources), workdir)
    return found if found.origin == "sensors" else attrs.evolve(found, readings=found.readings[-1:])


def sources_of(config: WorkflowConfig) -> list[SensorSource]:
    """Return a workflow's sources: without any, the one that ``cspot_woof_url`` names."""
    return config.sources or [SensorSource(config.cspot_woof_url)]


def made_up(rows: int, until: float) -> list[Reading]:
    """Return made-up data, the newest of which is of the time ``until``.

    A breeze swells and falls, and veers once around in a day; the same time gives the same wind.
    """
    return [_made_up(until - STEP * back) for back in reversed(range(rows))]


def _made_up(moment: float) -> Reading:
    swell = math.sin(moment / (7 * STEP)) + 0.3 * math.sin(moment / (1.7 * STEP))
    speed = 6.0 + 3.0 * swell
    direction = (moment / 240.0 + 20.0 * swell) % 360.0
    return Reading(moment, round(speed, 2), round(6.0 + 2.5 * swell, 2), round(direction, 1))


def read_replay(workdir: Path, name: str) -> list[Reading]:
    """Return the readings of a CSV file, oldest first. It blocks. Raises InvalidReplay."""
    path = workdir / os.path.expanduser(name)
    try:
        with open(path, "rb", opener=_opened_at_once) as file:
            is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            content = file.read(REPLAY_LIMIT + 1) if is_file else b""
    except (OSError, ValueError) as error:
        raise InvalidReplay(f"{path} cannot be read: {error}") from None
    if not is_file:
        raise InvalidReplay(f"{path} is no file")
    if len(content) > REPLAY_LIMIT:
        raise InvalidReplay(f"{path} has more than {REPLAY_LIMIT} bytes: replay a part of it")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise InvalidReplay(f"{path} is no text in UTF-8") from None
    return sorted(from_csv(text, str(path)), key=lambda reading: reading.dt)


def _opened_at_once(path: str, flags: int) -> int:
    """Open a path without waiting for whoever writes into a pipe there."""
    return os.open(path, flags | os.O_NONBLOCK)


@attrs.define(eq=False)
class _Sensors:
    """Read records of all sources of a workflow, once each."""

    config: WorkflowConfig
    program: str
    _readings: dict[tuple[str, int], Reading] = attrs.field(factory=dict)
    _asked: set[tuple[str, int]] = attrs.field(factory=set)
    _newest: dict[str, int] = attrs.field(factory=dict)
    _errors: list[SensorError] = attrs.field(factory=list)
    _limiter: anyio.CapacityLimiter = attrs.field(factory=lambda: anyio.CapacityLimiter(AT_ONCE))

    async def acquire(self) -> Acquisition:
        limit = self.config.timeouts.acquisition
        with anyio.move_on_after(limit) as scope:
            async with anyio.create_task_group() as group:
                for source in sources_of(self.config):
                    group.start_soon(self._read_source, source)
        problems = list(self._problems())
        if scope.cancelled_caught:
            late = f"not all records were read within {limit:g} s"
            self._errors.append(SenspotTimeout(f"{late}: there is none; see timeouts.acquisition"))
            problems.append(f"{late}: {len(self._readings)} were")
        if not self._readings:
            raise self._errors[0]
        readings = sorted(self._readings.values(), key=lambda reading: reading.dt)
        return Acquisition(readings, "sensors", self._newest, problems)

    def _problems(self) -> Iterator[str]:
        yield from (error.detail for error in self._errors[:PROBLEMS_TOLD])
        if len(self._errors) > PROBLEMS_TOLD:
            yield f"and {len(self._errors) - PROBLEMS_TOLD} more records could not be read"

    async def _read_source(self, source: SensorSource) -> None:
        try:
            newest = await self._read(source, None)
            _check_age(source, newest)
        except SensorError as error:
            self._errors.append(error)
            return
        self._newest[source.url] = newest.number
        self._take(source, newest)
        limit = source.limit or self.config.cspot_limit
        older = iter(range(newest.number - 1, max(newest.number - limit, 0), -1))
        async with anyio.create_task_group() as group:
            for _ in range(AT_ONCE):
                group.start_soon(self._read_older, source, older)

    async def _read_older(self, source: SensorSource, numbers: Iterator[int]) -> None:
        for number in numbers:
            if (source.url, number) in self._asked:
                continue
            self._asked.add((source.url, number))
            try:
                self._take(source, await self._read(source, number))
            except SensorError as error:
                self._errors.append(error)

    async def _read(self, source: SensorSource, number: int | None) -> senspot.Record:
        async with self._limiter:
            timeout = self.config.timeouts.read
            return await senspot.read_record(self.program, source.url, number, timeout)

    def _take(self, source: SensorSource, record: senspot.Record) -> None:
        """Keep a record, unless another source with the same log has it."""
        self._asked.add((record.woof, record.number))
        try:
            self._readings.setdefault((record.woof, record.number), to_reading(source, record))
        except GarbledSensor as error:
            self._errors.append(error)


def _check_age(source: SensorSource, newest: senspot.Record) -> None:
    age = time.time() - newest.time
    if source.max_age is not None and age > source.max_age:
        raise StaleSensor(
            f"the newest record of {source.url} (number {newest.number}) is {age:.0f} s old, and "
            f"its max_age is {source.max_age:g} s: the station may have stopped"
        )


def to_reading(source: SensorSource, record: senspot.Record) -> Reading:
    """Return what a record says in m/s and degrees. Raises GarbledSensor."""
    values = record.values.split(maxsplit=1)[0].split(":")
    fields, factor = source.fields, METRES_PER_SECOND[source.speed_unit]
    speed = _value(values, "windspeed", fields.windspeed, record) * factor
    direction = _value(values, "winddir", fields.winddir, record)
    if fields.windavg is None:
        return Reading(record.time, speed, speed, direction)
    average = _value(values, "windavg", fields.windavg, record) * factor
    return Reading(record.time, speed, average, direction)


def _value(values: list[str], name: str, place: int, record: senspot.Record) -> float:
    try:
        value = float(values[place])
    except (IndexError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise GarbledSensor(
            f"record {record.number} of {record.woof} is {record.values[:80]!r}: its value {place} "
            f"(the first is 0) is no {name}; check the source's fields"
        )
    return value
