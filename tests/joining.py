"""Join a bridge as an endpoint, by hand."""

import re

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from orbit_core._dial import DialedSocket
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
