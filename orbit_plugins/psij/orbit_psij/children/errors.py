"""Name what can go wrong with child endpoints."""

from orbit_core.errors import NotFound


class UnknownChild(NotFound):
    """Answer for a child endpoint that this endpoint does not have."""

    code = "unknown_child"
