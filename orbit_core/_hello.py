"""Say who joins: what an endpoint tells a bridge first."""

import attrs

from ._codec import from_wire
from ._frames import ProtocolError, unpack_map
from .errors import BadRequest
from .models import PluginInfo, check_name

HELLO_LIMIT = 256 * 1024
"""Largest hello, in bytes."""


@attrs.frozen
class Hello:
    """Say who joins, and whether everybody may call it."""

    role: str = "standalone"
    version: str = ""
    plugins: dict[str, PluginInfo] = attrs.field(factory=dict)
    shared: bool = False


def unpack_hello(payload: memoryview) -> Hello:
    """Return what an endpoint says of itself, of which everybody is told. Raises ProtocolError."""
    if len(payload) > HELLO_LIMIT:
        raise ProtocolError(f"a hello is larger than {HELLO_LIMIT} bytes")
    try:
        hello = from_wire(unpack_map(payload), Hello, "hello")
        for instance in hello.plugins:
            check_name(instance, "plugin instance")
        check_name(hello.role, "role")
    except BadRequest as error:
        raise ProtocolError(error.detail) from None
    return hello
