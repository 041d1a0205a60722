"""Print records as ``qstat -f`` and ``-F json`` do."""

import json
import time

from slurm import SERVER

VERSION = "23.06.06"

WIDTH, TAB = 78, 8


def ctime(moment):
    """Return SLURM's ``2026-11-23T20:57:55`` as ctime(3) writes it, or None."""
    try:
        parsed = time.strptime(moment, "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return None
    return time.strftime("%a %b %e %H:%M:%S %Y", parsed)


def print_json(kind, records):
    """Print one document; without records it has no key ``kind``."""
    head = {"timestamp": int(time.time()), "pbs_version": VERSION, "pbs_server": SERVER}
    found = {kind: records} if records else {}
    print(json.dumps(head | found, indent=4, separators=(",", ":")))


def print_text(head, records, *, indent=4, is_wide=False):
    """Print records with a blank line after each."""
    for name, record in records.items():
        print(head + name)
        for key, value in _flat(record):
            line = f"{' ' * indent}{key} = {value}"
            print(line if is_wide else _fold(line))
        print()


def _flat(record):
    for key, value in record.items():
        match value:
            case dict() if key == "Variable_List":
                yield key, ",".join(f"{name}={text}" for name, text in value.items())
            case dict():
                yield from ((f"{key}.{name}", text) for name, text in value.items())
            case list():
                yield key, ", ".join(value)
            case _:
                yield key, value


def _fold(line):
    """Break a line at 78 columns: after a comma if there is one, else anywhere."""
    rows, room = [], WIDTH
    while len(line) > room:
        cut = line.rfind(",", 0, room) + 1 or room
        rows.append(line[:cut])
        line, room = line[cut:], WIDTH - TAB
    return "\n\t".join([*rows, line])
