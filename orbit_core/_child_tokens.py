"""Give endpoints tokens for their children: each for one name below their own, and for a while."""

import math
import time

import attrs
from starlette.requests import Request
from starlette.routing import Route

from ._codec import to_data
from .auth import Tokens
from .errors import BadRequest, Forbidden, UnknownToken
from .models import RESERVED_NAMES, Principal, Role, Token, check_name
from .web import Reply, model_body, principal_of, takes

LONGEST = 30 * 24 * 3600.0
"""Seconds that a child's token lives at most."""


@attrs.frozen
class ChildTokenRequest:
    """Ask for the token of a child called ``name``, for ``expires`` seconds from now."""

    name: str
    expires: float


@attrs.frozen
class ChildTokenLimit:
    """Say in how many seconds a child's token ends."""

    expires: float


class ChildTokens:
    """Answer endpoints, which ask over their own links and in no other way."""

    def __init__(self, tokens: Tokens) -> None:
        """Make the tokens in ``tokens``."""
        self._tokens = tokens

    def routes(self) -> list[Route]:
        """Return the routes at the root."""
        one = "/endpoint/children/{name}"
        return [
            Route("/endpoint/children", self.create, methods=["POST"]),
            Route(one, self.limit, methods=["PATCH"]),
            Route(one, self.revoke, methods=["DELETE"]),
        ]

    @takes(ChildTokenRequest)
    async def create(self, request: Request) -> Reply:
        """Make the token of an endpoint's child; one that the child had before ends."""
        parent = _parent(request)
        wanted = await model_body(request, ChildTokenRequest)
        _check_child(parent, wanted.name)
        expires = self._capped(parent, wanted.expires)
        for former in self._of(parent, wanted.name):
            await self._tokens.revoke(former.id)
        token, text = await self._tokens.create(
            Role.ENDPOINT,
            parent.owner,
            expires=expires,
            endpoint=wanted.name,
            voucher=parent.token_id,
        )
        return Reply({**to_data(token), "token": text})

    @takes(ChildTokenLimit)
    async def limit(self, request: Request) -> Reply:
        """Say anew when the token of an endpoint's child ends."""
        name = request.path_params["name"]
        parent = _parent(request)
        _check_child(parent, name)
        wanted = await model_body(request, ChildTokenLimit)
        for token in self._known(parent, name):
            await self._tokens.limit(token.id, self._capped(parent, wanted.expires))
        return Reply({"ok": True})

    async def revoke(self, request: Request) -> Reply:
        """End the token of an endpoint's child, and cut what it opened."""
        name = request.path_params["name"]
        parent = _parent(request)
        _check_child(parent, name)
        for token in self._known(parent, name):
            await self._tokens.revoke(token.id)
        return Reply({"ok": True})

    def _capped(self, parent: Principal, expires: float) -> float:
        """Return the seconds for a child: at most `LONGEST`, and no more than its parent has."""
        if not 0 < expires < math.inf:
            raise BadRequest(f"a token expires after a positive number of seconds, not {expires}")
        own = self._tokens.get(parent.token_id)
        rest = math.inf if own is None or own.expires is None else own.expires - time.time()
        return min(expires, LONGEST, rest)

    def _of(self, parent: Principal, name: str) -> list[Token]:
        """Return the tokens of a child, which its parent asked for, by whatever token it had."""
        return [
            token
            for token in self._tokens.list()
            if (token.endpoint, token.owner) == (name, parent.owner) and token.voucher is not None
        ]

    def _known(self, parent: Principal, name: str) -> list[Token]:
        found = self._of(parent, name)
        if not found:
            raise UnknownToken(f"the endpoint {name!r} has no token of its parent's")
        return found


def _parent(request: Request) -> Principal:
    """Return the endpoint that asks. Raises Forbidden if it is none, or asks another way."""
    parent = principal_of(request)
    if parent.endpoint is None:
        raise Forbidden("only an endpoint asks for its children's tokens, over its own link")
    return parent


def _check_child(parent: Principal, name: str) -> None:
    """Raise Forbidden, or InvalidName, for a name that is not below the parent's."""
    check_name(name, "endpoint name", reserved=RESERVED_NAMES)
    if not name.startswith(f"{parent.endpoint}."):
        raise Forbidden(f"a child of {parent.endpoint!r} is called {parent.endpoint}.…, not {name}")
