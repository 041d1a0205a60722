"""Read what qstat(1B) and pbsnodes(8B) print of jobs, queues and nodes.

Text and JSON give the same records: flat dicts of text, such as ``Resource_List.ncpus``.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

Record = dict[str, str]

_HEAD = re.compile(r"(?:Job Id|Queue|Server): (.*)|(\S+)")
_ATTRIBUTE = re.compile(r"( +)([A-Za-z][\w.-]*) =(?: (.*))?")
_MEMBER = re.compile(r'(\s*"(?:[^"\\]|\\.)*":)\s*(.*?)(,?)\s*')
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_VARIABLE = re.compile(r"(?:^|,)([A-Za-z_]\w*)=")


def parse_pbs_text(text: str) -> dict[str, Record]:
    r"""Return the records of ``qstat -f``, ``-Qf``, ``-Bf`` or ``pbsnodes -a`` by their names.

    A value that is longer than a line is broken anywhere, and goes on after one tab
    (openpbs, qstat.c).
    """
    records: dict[str, Record] = {}
    record: Record = {}
    key, indentation = "", ""
    for line in text.splitlines():
        attribute = _ATTRIBUTE.fullmatch(line)
        if attribute and (not record or attribute[1] == indentation):
            indentation, key = attribute[1], attribute[2]
            record[key] = attribute[3] or ""
        elif line.startswith(("\t", " ")):
            if key:
                record[key] += line.removeprefix("\t") if line[0] == "\t" else line.strip()
        elif head := _HEAD.match(line):
            record = records.setdefault((head[1] or head[2]).strip(), {})
            key = ""
    return {name: _with_variables(record) for name, record in records.items()}


def parse_pbs_json(text: str, kind: str) -> dict[str, Record]:
    """Return the records of ``-F json`` below ``kind``: ``Jobs``, ``Queue``, ``nodes``, ``Server``.

    Repaired is what real servers get wrong: numbers like 007, lone backslashes, bare quotes, text
    around the document. Raises ValueError where that does not help: ask for text then.
    """
    start = max(text.find("{"), 0)
    try:
        return _records(text[start:], kind)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _records(text: str, kind: str) -> dict[str, Record]:
    try:
        document = _decode(text)
    except ValueError:
        document = _decode("\n".join(map(_repair, text.splitlines())))
    found = document.get(kind, {}) if isinstance(document, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"{kind} is no object")
    return {name: dict(_flat(record)) for name, record in found.items() if isinstance(record, dict)}


def _decode(text: str) -> Any:
    decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str, strict=False)
    return decoder.raw_decode(text)[0]


def _repair(line: str) -> str:
    member = _MEMBER.fullmatch(line)
    if member is None or member[2][:1] in ("{", "[", ""):
        return line
    name, value, comma = member.groups()
    if value[0] == '"' and value[-1] == '"' and len(value) > 1:
        return name + _repaired_text(value) + comma
    return line if _NUMBER.fullmatch(value) else name + json.dumps(value) + comma


def _repaired_text(value: str) -> str:
    try:
        json.loads(value, strict=False)
    except ValueError:
        return json.dumps(value[1:-1].replace('\\"', '"').replace("\\'", "'"))
    return value


def _flat(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        match value:
            case dict():
                yield from _flat(value, f"{prefix}{key}.")
            case list():
                yield prefix + key, ", ".join(map(str, value))
            case _:
                yield prefix + key, str(value)


def _with_variables(record: Record) -> Record:
    """Return a record with the variables of ``Variable_List`` one by one, as JSON has them."""
    listed = record.pop("Variable_List", None)
    if listed is None:
        return record
    names = list(_VARIABLE.finditer(listed))
    ends = [following.start() for following in names[1:]] + [len(listed)]
    variables = {
        f"Variable_List.{name[1]}": listed[name.end() : end]
        for name, end in zip(names, ends, strict=True)
    }
    return record | variables
