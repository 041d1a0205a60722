"""Turn JSON data into attrs values and back: bodies, documents, replies.

Nothing is coerced: ``"false"`` does not become True, and ``"abc"`` is no list of three letters.
"""

from typing import TypeVar

from ._codec import from_wire
from ._codec import to_data as to_data

T = TypeVar("T")


def as_model(data: object, kind: type[T], what: str = "body", *, strict: bool = False) -> T:
    """Return JSON data as a ``kind``.

    Unknown fields are ignored, so that an older program reads what a newer one wrote. With
    ``strict`` they are faults, where a misspelt option that went unnoticed would do harm.

    Raises InvalidBody, naming ``what`` and every fault with its path.
    """
    return from_wire(data, kind, what, strict=strict)
