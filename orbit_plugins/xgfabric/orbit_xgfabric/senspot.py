"""Read records of CSPOT's logs (WooFs) through its command line, ``senspot-get``.

A record is a line ``<values> time: <seconds since the epoch> <address> seq_no: <number>``. One
process reads one record; the protocol needs TCP ports 50000 to 60000 both ways.
"""

import os
import re
import shutil
from pathlib import Path

import anyio
import attrs

from orbit_core.batch.commands import run
from orbit_core.batch.errors import OutputTooLarge, SchedulerUnavailable

from .errors import GarbledSensor, SenspotFailed, SenspotMissing, SenspotTimeout

PROGRAM = "senspot-get"
VARIABLE = "SENSPOT_PATH"
FOLDERS = ("~/bin", "~/common/cspot/build/bin", "/global/common/software/m5290/cspot/build/bin")
"""Where the program is sought after the variable and ``PATH``."""

OUTPUT_LIMIT = 64 * 1024
"""Bytes that one record may have: CSPOT's largest elements have 8 KiB."""

_RECORD = re.compile(r"(?P<values>\S.*) time: (?P<time>\d+(\.\d+)?) (\S+) seq_no: (?P<number>\d+)")


@attrs.frozen
class Record:
    """Hold a record: its number in the log ``woof``, seconds since the epoch, and its values."""

    woof: str
    number: int
    time: float
    values: str


def find_program() -> str:
    """Return the path of ``senspot-get``. It blocks shortly.

    ``SENSPOT_PATH``, the program or its directory, is the only place that counts where it is set.
    Raises SenspotMissing.
    """
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named).expanduser()
        found = shutil.which(path / PROGRAM if path.is_dir() else path)
        places = f"{VARIABLE}={named} names neither it nor its directory"
    else:
        folders = [Path(folder).expanduser() for folder in FOLDERS]
        here = (shutil.which(folder / PROGRAM) for folder in folders)
        found = shutil.which(PROGRAM) or next(filter(None, here), None)
        places = f"it is neither on PATH nor in {', '.join(map(str, folders))}"
    if found is None:
        raise SenspotMissing(
            f"{PROGRAM} cannot be run: {places}. Install CSPOT's client and set {VARIABLE}, or "
            "replay a file, or use mock_sensor_data"
        )
    return str(found)


async def read_record(program: str, woof: str, number: int | None, timeout: float) -> Record:
    """Return a record of a log, the newest if no number is given.

    The program is killed, with all its processes, if it is not over after ``timeout`` seconds or
    the caller is cancelled. Raises SenspotTimeout, SenspotFailed, GarbledSensor.
    """
    command = [program, "-W", woof, *([] if number is None else ["-S", str(number)])]
    try:
        with anyio.fail_after(timeout):
            said = await run(*command, deadline=float("inf"), limit=OUTPUT_LIMIT)
    except TimeoutError:
        raise SenspotTimeout(
            f"{PROGRAM} did not answer within {timeout:g} s for {woof}: it needs TCP ports 50000 "
            "to 60000, in and out, between this host and that one"
        ) from None
    except SchedulerUnavailable as error:
        raise SenspotFailed(f"{error.detail}: check the program and {VARIABLE}") from None
    except OutputTooLarge:
        raise GarbledSensor(f"{PROGRAM} printed without end for {woof}") from None
    if said.status:
        raise SenspotFailed(f"{PROGRAM} failed for {_place(woof, number)}: {said.complaint}")
    return _parsed(said.stdout, woof, number)


def _parsed(text: str, woof: str, number: int | None) -> Record:
    lines = text.splitlines()
    found = _RECORD.fullmatch(lines[0].strip()) if len(lines) == 1 else None
    if found is None or (number is not None and int(found["number"]) != number):
        wanted = "a record" if found is None else f"record {number}"
        raise GarbledSensor(
            f"{PROGRAM} printed {text[:80]!r} for {_place(woof, number)}: not the line of {wanted}"
        )
    return Record(woof, int(found["number"]), float(found["time"]), found["values"])


def _place(woof: str, number: int | None) -> str:
    return f"the newest record of {woof}" if number is None else f"record {number} of {woof}"
