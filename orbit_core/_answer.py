"""Pass an endpoint's answer on, as far as the bridge's own origin may be made to say it."""

import ipaddress
import posixpath
import re
import socket
from contextlib import suppress
from functools import partial

import anyio
import anyio.lowlevel
from starlette.types import Scope, Send

from ._frames import Headers, ResponseHead
from ._http import Connection
from ._stream import Stream
from .errors import ConnectionLost, OrbitError

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer "
    b"transfer-encoding upgrade".split()
)
CLIENT_LEFT = ConnectionLost("the client left")

# An endpoint answers on the bridge's own origin: it may not change what browsers do with all of
# that, and a page of its making may not run scripts there.
_NOT_RETURNED = HOP_BY_HOP | frozenset(
    b"alt-svc clear-site-data content-security-policy nel refresh report-to reporting-endpoints "
    b"service-worker-allowed set-cookie strict-transport-security x-content-type-options".split()
)
_ADDED: Headers = [
    (b"content-security-policy", b"sandbox"),
    (b"x-content-type-options", b"nosniff"),
]
_NO_NAME = re.compile(rb'[\x00-\x20\x7f()<>@,;:\[\]={}\\"/?]')
_NO_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_UNKNOWN = -1

_REFERENCE = re.compile(rb"(?:([^:/?#]+):)?(?://([^/?#]*))?([^?#]*)[!-~]*")
"""Scheme, authority and path of a reference (RFC 3986, appendix B)."""

_HOST = re.compile(rb"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_DOUBTFUL = re.compile(rb"//|\\|%2[ef]|%5c|[^!-~]", re.IGNORECASE)
"""What some clients take for slashes or dots, and others do not."""

_BODILESS = (204, 304)
"""Answers that end with their head (RFC 9112, section 6.3): a body would be the next answer."""


class Answer:
    """Pass a stream's response on to the client."""

    __slots__ = ("_connection", "_scope", "_send", "error", "status")

    def __init__(self, scope: Scope, send: Send) -> None:
        """Answer the request of ``scope``; ``status`` is 0 until the answer begins."""
        self._send = send
        self._connection: Connection | None = scope.get("orbit.connection")
        self._scope = scope
        self.status = 0
        self.error: OrbitError | None = None

    async def follow(self, stream: Stream) -> None:
        """Pass everything on; a client that leaves ends the call."""
        if self._connection is not None:
            self._connection.on_lost = partial(stream.cancel, CLIENT_LEFT)
        try:
            head = await stream.response()
            headers, length = _checked(head)
            if 300 <= head.status < 400:
                _check_redirection(headers, self._scope)
            await self._send(
                {"type": "http.response.start", "status": head.status, "headers": headers + _ADDED}
            )
            self.status = head.status
            if self._scope["method"] == "HEAD" or head.status in _BODILESS:
                await self._send({"type": "http.response.body", "body": b""})
            else:
                await self._pass_body(stream, length)
        finally:
            if self._connection is not None:
                self._connection.on_lost = None
            stream.cancel(CLIENT_LEFT)

    async def _pass_body(self, stream: Stream, length: int) -> None:
        more = True
        while more:
            body = await stream.read()
            more = not stream.at_end
            if length != _UNKNOWN:
                length -= len(body)
                if length < 0 or (length > 0 and not more):
                    raise _invalid("is not as long as it says")
            await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def abort(self, error: OrbitError) -> None:
        """Cut an answer short so that the client can tell: it must not look complete."""
        if self._connection is None:
            raise error
        self._connection.abort()
        await anyio.lowlevel.checkpoint()


def _checked(head: ResponseHead) -> tuple[Headers, int]:
    """Return the headers to pass on and the body's length.

    Refuses what is no HTTP, before anything of it is sent.
    """
    headers: Headers = []
    length = _UNKNOWN
    for name, value in head.headers:
        lowered = name.lower()
        if lowered in _NOT_RETURNED or lowered.startswith(b"access-control-"):
            continue
        if _NO_NAME.search(name) or not name or _NO_VALUE.search(value):
            raise _invalid("has an invalid head")
        if lowered == b"content-length":
            if length != _UNKNOWN or not _LENGTH.fullmatch(value):
                raise _invalid("has an invalid length")
            length = int(value)
            if head.status in _BODILESS:
                continue
        headers.append((name, value))
    if head.status < 200:
        raise _invalid("has an invalid head")
    return headers, length


def _check_redirection(headers: Headers, scope: Scope) -> None:
    """Refuse to send a client, which takes its token along, to another place on this bridge."""
    for name, value in headers:
        if name.lower() == b"location" and not _is_harmless(value, scope):
            raise _invalid("leads to a place on the bridge that is not the endpoint's")


def _is_harmless(location: bytes, scope: Scope) -> bool:
    """Tell whether a location is at the endpoint itself, or surely on another host.

    Clients show a host's token to no other host.
    """
    parts = _REFERENCE.fullmatch(location)
    if parts is None:
        return False
    scheme, authority, path = parts.groups()
    if scheme is not None and (scheme.lower() not in (b"http", b"https") or not authority):
        return False
    if authority is not None:
        ours = _HOST.fullmatch(dict(scope["headers"]).get(b"host", b""))
        theirs = _HOST.fullmatch(authority)
        if theirs is None or ours is None:
            return False
        if _canonical(theirs[1]) != _canonical(ours[1]):
            return True
    base: bytes = scope["raw_path"]
    if authority is None and not path.startswith(b"/"):
        path = base.rpartition(b"/")[0] + b"/" + path if path else base
    return not _DOUBTFUL.search(path) and _first(posixpath.normpath(path)) == _first(base)


def _canonical(host: bytes) -> str:
    """Return a host as browsers see it: ``0x7f.1`` and ``127.0.0.1`` are the same."""
    name = host.decode().lower().strip("[].")
    with suppress(ValueError):
        return str(ipaddress.ip_address(name))
    with suppress(OSError):
        return socket.inet_ntoa(socket.inet_aton(name))
    return name


def _first(path: bytes) -> bytes:
    return path.split(b"/", 2)[1]


def _invalid(fault: str) -> OrbitError:
    return OrbitError.from_reply(502, "", f"the endpoint's answer {fault}")
