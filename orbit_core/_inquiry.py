"""Ask the endpoints what their plugins are: once per registration, and none at all others' cost."""

import logging
import time

import anyio

from ._codec import from_wire, parse_json
from ._frames import RequestHead
from ._member import Member
from .errors import BodyTooLarge, OrbitError
from .models import HostDescription, Role

logger = logging.getLogger(__name__)

DESCRIPTION_LIMIT = 4 * 1024 * 1024
"""Largest description of an endpoint's plugins, in bytes."""

DESCRIBE_TIMEOUT = 5.0
"""Seconds that an endpoint has to describe its plugins."""

ASK_AGAIN = 30.0
"""Seconds for which an endpoint that did not describe its plugins is not asked again."""

_HEAD = RequestHead("GET", b"/plugins", [], {"principal": ("bridge", Role.ADMIN.value, None)})


async def descriptions_of(members: list[Member]) -> dict[str, HostDescription]:
    """Return what the endpoints say of their plugins; those that cannot tell are left out."""
    async with anyio.create_task_group() as group:
        for member in members:
            group.start_soon(_learn, member)
    return {member.name: member.descriptions for member in members if member.descriptions}


async def _learn(member: Member) -> None:
    """Ask a member, unless it has told, or failed to a moment ago; one asks for all who wait."""
    async with member.inquiry:
        if (
            member.descriptions is not None
            or member.suspect_since is not None
            or time.monotonic() < member.silent_until
        ):
            return
        try:
            with anyio.fail_after(DESCRIBE_TIMEOUT):
                member.descriptions = await _ask(member)
        except (OrbitError, ValueError, TimeoutError) as error:
            member.silent_until = time.monotonic() + ASK_AGAIN
            reason = str(error) or f"it took longer than {DESCRIBE_TIMEOUT:g} s"
            logger.warning("endpoint %s does not describe its plugins: %s", member.name, reason)


async def _ask(member: Member) -> HostDescription:
    stream = member.link.call(_HEAD, b"", fin=True, deadline=DESCRIBE_TIMEOUT)
    try:
        head = await stream.response()
        body = bytearray()
        while chunk := await stream.read():
            body += chunk
            if len(body) > DESCRIPTION_LIMIT:
                raise _TOO_LARGE
    finally:
        stream.cancel(_ENOUGH)
    if head.status != 200:
        raise ValueError(f"it answers {head.status}")
    return from_wire(parse_json(bytes(body)), HostDescription, f"plugins of {member.name}")


_ENOUGH = OrbitError("the bridge waits no longer")
_TOO_LARGE = BodyTooLarge(f"it takes more than {DESCRIPTION_LIMIT} bytes")
