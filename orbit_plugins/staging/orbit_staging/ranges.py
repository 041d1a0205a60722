"""Read the header ``Range`` (RFC 9110, section 14)."""

import re

from .errors import RangeNotSatisfiable

_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.ASCII)


def parse_range(field: str | None, size: int) -> tuple[int, int] | None:
    """Return where a range begins and ends (exclusive) in ``size`` bytes; None means all of them.

    Several ranges at once, other units and what cannot be read are ignored, as the RFC allows.

    Raises RangeNotSatisfiable.
    """
    found = _RANGE.fullmatch(field or "")
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start = int(first)
        stop = size if not last else min(size, int(last) + 1)
        if last and int(last) < start:
            return None
    if start >= size or start >= stop:
        raise RangeNotSatisfiable(f"the file has {size} bytes: there are none from {field}")
    return start, stop
