"""Name what is kept of tasks."""

import attrs


@attrs.frozen
class Accepted:
    """Name a task that was accepted: by a number that is never used again, and by its uid."""

    number: int
    uid: str


@attrs.frozen
class Ended:
    """Hold a task's end; ``body`` is its result as it is sent."""

    number: int
    seq: int
    state: str
    finished: float
    body: bytes


@attrs.frozen
class Row:
    """Hold what is kept of a task; without a state it is not over, without a body that is gone."""

    uid: str
    seq: int | None
    state: str | None
    body: bytes | None = None
