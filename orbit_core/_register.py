"""Let endpoints in: check the handshake of ``/register`` and run the link on its WebSocket."""

import anyio
from starlette.types import Receive, Scope, Send

from ._frames import LINK_VERSION
from ._handshake import ENDPOINT, PATH, PROCESS, RECEIVED, RESUME_KEY, VERSION
from ._member import Applicant
from ._rates import RateLimit
from ._registry import Registry
from ._server import SocketProtocol
from .auth import ANYBODY, Authenticator
from .errors import (
    BadRequest,
    ConnectionLost,
    Forbidden,
    OrbitError,
    TooManyRequests,
    Unavailable,
    UnknownRoute,
)
from .models import RESERVED_NAMES, Role, check_name
from .web import error_reply

ADMISSIONS, ADMISSION_BURST = 250.0, 1.0
"""Endpoints let in a second, and the seconds' worth of them that are let in at once: a thousand
that come back together cost four seconds of half a processor."""

JOINS, JOIN_BURST = 0.5, 20.0
"""The same for one endpoint, whose coming and going everybody is told."""

PATIENCE = 5.0
"""Seconds for which a handshake may wait for its turn; it must be less than any peer waits."""


class Registrar:
    """Be the WebSocket side of a bridge."""

    def __init__(self, registry: Registry, authenticator: Authenticator) -> None:
        """Admit to ``registry`` whom ``authenticator`` knows as an endpoint."""
        self._registry = registry
        self._authenticator = authenticator
        self._admissions = RateLimit(ADMISSIONS, ADMISSION_BURST)
        self._joins = RateLimit(JOINS, JOIN_BURST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit one endpoint, or refuse it with the error document, and carry its link."""
        await receive()
        try:
            applicant, _ = self._applicant(scope)
            if wait := self._turn(applicant):
                await _wait_for_turn(wait, receive)
            applicant, received = self._applicant(scope)  # its token may have ended meanwhile
            member, resumed = self._registry.admit(applicant)
        except OrbitError as error:
            await _refuse(error, scope["orbit.socket"], send)
            return
        headers = [(RESUME_KEY, member.resume_key), (VERSION, str(LINK_VERSION))]
        if resumed:
            headers.append((RECEIVED, str(member.link.received)))
        encoded = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "websocket.accept", "headers": encoded})
        socket: SocketProtocol = scope["orbit.socket"]
        await self._registry.carry(member, socket, received if resumed else 0)
        socket.abort()

    def _turn(self, applicant: Applicant) -> float:
        """Return the seconds to an applicant's turn. Raises TooManyRequests, Unavailable."""
        own = self._joins.take(f"{applicant.owner} {applicant.name}", PATIENCE)
        if own > PATIENCE:
            raise TooManyRequests(
                f"endpoint {applicant.name} joins over and over: wait, and see why its link breaks",
                retry_after=own,
            )
        wait = self._admissions.take("", PATIENCE)
        if wait > PATIENCE:
            raise Unavailable("very many endpoints are joining: wait", retry_after=wait)
        return max(own, wait)

    def _applicant(self, scope: Scope) -> tuple[Applicant, int]:
        if scope["path"] != PATH:
            raise UnknownRoute(f"no WebSocket is served at {scope['path']}")
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        address = scope["client"][0] if scope["client"] else "an unknown address"
        name = check_name(headers.get(ENDPOINT), "endpoint name", reserved=RESERVED_NAMES)
        received, version = headers.get(RECEIVED, "0"), headers.get(VERSION, "")
        if not (_is_count(version) and _is_count(received) and int(version) >= 1):
            raise BadRequest(
                f"this is no ORBIT endpoint, or one too old for link version {LINK_VERSION}"
            )
        owner, token_id = self._identity(scope, address, name)
        process = check_name(headers.get(PROCESS), "endpoint process")
        return Applicant(name, owner, token_id, address, process, headers.get(RESUME_KEY)), int(
            received
        )

    def _identity(self, scope: Scope, address: str, name: str) -> tuple[str, str]:
        if not self._authenticator.enabled:
            return ANYBODY.owner, ""
        token = self._authenticator.token(scope["headers"], address)
        if token.role is Role.CLIENT:
            raise Forbidden(
                "a client's token does not let an endpoint in: create one with role endpoint"
            )
        if token.endpoint not in (None, name):
            raise Forbidden(f"this token is for the endpoint {token.endpoint!r}, not {name!r}")
        return token.owner, token.id


def _is_count(text: str) -> bool:
    return text.isdecimal() and len(text) < 20


async def _wait_for_turn(seconds: float, receive: Receive) -> None:
    """Wait. Raises ConnectionLost if the applicant leaves: it can do nothing else meanwhile."""
    with anyio.move_on_after(seconds):
        await receive()
        raise ConnectionLost("the endpoint left before its turn came")


async def _refuse(error: OrbitError, socket: SocketProtocol, send: Send) -> None:
    reply = error_reply(error)
    await send(
        {
            "type": "websocket.http.response.start",
            "status": reply.status_code,
            "headers": reply.raw_headers,
        }
    )
    await send({"type": "websocket.http.response.body", "body": bytes(reply.body)})
    socket.handshake_complete = True  # or uvicorn logs it as an error that nobody answered
