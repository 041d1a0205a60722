"""Read durations as schedulers print them."""

import re

_FORM = re.compile(r"(?:(\d{1,6})-)?(\d{1,9})(?::(\d{1,2}))?(?::(\d{1,2}))?", re.ASCII)


def seconds_of(text: str) -> int | None:
    """Return the seconds of ``[DAYS-]H:M:S``, ``M:S`` or ``S``; None for words like UNLIMITED.

    After days the first number is hours (squeue(1)); PBS lets hours go beyond 24
    (pbs_resources(7B)).
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        return None
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:
        numbers += [0] * (3 - len(numbers))
    total = 0
    for number in numbers:
        total = 60 * total + number
    return int(days or 0) * 86400 + total
