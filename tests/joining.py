"""Join a bridge as an endpoint, by hand."""

import re
from contextlib import asynccontextmanager

import anyio
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from orbit_core._dial import DialedSocket
from orbit_core._link import Link
from orbit_core.models import Principal, Role


def handshake(deployment, token, path="/register", **changes):
    """Return a WebSocket that joins as ``other``, with changes to its headers; None omits one."""
    headers = {
        "orbit-endpoint": "other",
        "orbit-process": "p1",
        "orbit-link-version": "1",
        "Authorization": f"Bearer {token}" if token else None,
    }
    for name, value in changes.items():
        headers[name.replace("_", "-")] = value
    given = {name: value for name, value in headers.items() if value is not None}
    url = deployment.url.replace("http", "ws") + path
    return connect(url, additional_headers=given, compression=None, create_connection=DialedSocket)


async def refused(deployment, token, **changes):
    """Join in vain, and return the status and code of the refusal."""
    with pytest.raises(InvalidStatus) as told:
        async with handshake(deployment, token, **changes):
            pass
    response = told.value.response
    code = re.search(rb'"code":"(\w+)"', response.body)
    return response.status_code, code and code[1].decode()


async def endpoint_token(deployment, owner="alice", name=None):
    """Return a token that lets endpoints of ``owner`` in."""
    return await deployment.token(Principal(owner, Role.ENDPOINT, endpoint=name))


async def silent(scope, receive, send):
    """Serve a call, and never answer it."""
    await anyio.sleep_forever()


@asynccontextmanager
async def joined_by_hand(deployment, app=silent, hear=lambda kind, payload: None, name="other"):
    """Join as Alice's endpoint ``name``, whose link says only what a test lets it say."""
    token = await endpoint_token(deployment)
    async with anyio.create_task_group() as group:
        link = Link(app, group, hear, first_id=1)
        async with handshake(deployment, token, orbit_endpoint=name) as joined:
            group.start_soon(link.run, joined, 0)
            yield link
            group.cancel_scope.cancel()
