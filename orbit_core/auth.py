"""Decide who a request speaks for: hashed tokens with roles, expiring cookies, guarded guesses."""

import hmac
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import attrs

from ._codec import from_wire, to_data
from ._cookies import Cookies, digest
from ._store import Space
from .config import write_private
from .errors import (
    BadRequest,
    Forbidden,
    OrbitError,
    TooManyRequests,
    Unauthorized,
    UnknownToken,
)
from .models import RESERVED_NAMES, Principal, Role, Token, check_name

logger = logging.getLogger(__name__)

FAILURES = 10
FAILURE_WINDOW = 60.0
"""Wrong tokens that one address may show in so many seconds before it hears 429."""

ADDRESSES_WATCHED = 10_000

ANYBODY = Principal("anonymous", Role.ADMIN)
"""Who everybody is on a bridge without authentication."""

Headers = Sequence[tuple[bytes, bytes]]


@attrs.frozen
class _Kept:
    """Hold what the disk holds: a token's description and the SHA-256 of its text.

    ``is_given`` says that the text was given to the bridge and not made by it.
    """

    token: Token
    digest: str
    is_given: bool = False


class Tokens:
    """Keep the bridge's tokens, hashed, and tell who listens when one ends."""

    def __init__(self, documents: Space) -> None:
        """Take the space in which the tokens are kept."""
        self._documents = documents
        self._by_digest: dict[str, _Kept] = {}
        self._on_end: list[Callable[[str], None]] = []

    async def load(self) -> None:
        """Read the tokens from disk."""
        for data in (await self._documents.items()).values():
            kept = from_wire(data, _Kept, "token record")
            self._by_digest[kept.digest] = kept

    def on_end(self, callback: Callable[[str], None]) -> None:
        """Call ``callback(token_id)`` whenever a token is revoked or expires."""
        self._on_end.append(callback)

    async def create(
        self,
        role: Role,
        owner: str,
        *,
        expires: float | None = None,
        endpoint: str | None = None,
        voucher: str | None = None,
        text: str | None = None,
    ) -> tuple[Token, str]:
        """Make a token and return it with its text, which is not kept.

        ``expires`` is seconds from now; ``endpoint`` binds an endpoint token to one name;
        ``voucher`` is the id of a token that this one ends with; ``text`` takes an existing secret
        instead of a new one, and replaces the token that it was of.

        Raises InvalidName, and BadRequest for an ``expires`` that is not positive.
        """
        check_name(owner, "owner")
        if endpoint is not None:
            check_name(endpoint, "endpoint name", reserved=RESERVED_NAMES)
        if expires is not None and not 0 < expires < math.inf:
            raise BadRequest(f"a token expires after a positive number of seconds, not {expires}")
        is_given = text is not None
        text = text or "orbit_" + secrets.token_urlsafe(32)
        now = time.time()
        until = None if expires is None else now + expires
        token = Token("t" + secrets.token_hex(4), role, owner, now, until, endpoint, voucher)
        await self._keep(_Kept(token, digest(text), is_given))
        return token, text

    async def _keep(self, kept: _Kept) -> None:
        before = self._by_digest.get(kept.digest)
        await self._documents.put(kept.token.id, to_data(kept))
        self._by_digest[kept.digest] = kept
        if before is not None:
            await self._documents.delete(before.token.id)
            self._ended(before.token.id)

    async def limit(self, token_id: str, expires: float) -> None:
        """Let a token end that many seconds from now instead. Raises UnknownToken."""
        for key, kept in self._by_digest.items():
            if kept.token.id == token_id:
                token = attrs.evolve(kept.token, expires=time.time() + expires)
                changed = attrs.evolve(kept, token=token)
                await self._documents.put(token_id, to_data(changed))
                self._by_digest[key] = changed
                return
        raise UnknownToken(f"there is no token {token_id}: orbit token list shows them")

    async def revoke(self, token_id: str) -> None:
        """Forget a token and cut what it opened. Raises UnknownToken."""
        if all(kept.token.id != token_id for kept in self._by_digest.values()):
            raise UnknownToken(f"there is no token {token_id}: orbit token list shows them")
        await self._forget(token_id)

    async def _forget(self, token_id: str) -> None:
        """Delete a token, on disk first: one that only seems revoked would be back one day.

        Those that it vouches for go before it.
        """
        for token in self.list():
            if token.voucher == token_id:
                await self._forget(token.id)
        await self._documents.delete(token_id)
        self._by_digest = {
            digest: kept for digest, kept in self._by_digest.items() if kept.token.id != token_id
        }
        self._ended(token_id)

    async def forget_given(self, *, but: str | None) -> None:
        """Revoke every token whose text was given, save ``but``."""
        kept = [kept for kept in self._by_digest.values() if kept.is_given]
        for former in kept:
            if but is None or former.digest != digest(but):
                await self._forget(former.token.id)

    def list(self) -> list[Token]:
        """Return the tokens, oldest first."""
        return sorted(
            (kept.token for kept in self._by_digest.values()), key=lambda token: token.created
        )

    def find(self, text: str) -> Token | None:
        """Return the valid token with this text, or None; comparing takes the same time for all."""
        wanted = digest(text)
        kept = self._by_digest.get(wanted)
        if kept is None or not hmac.compare_digest(kept.digest, wanted):
            return None
        return None if _is_over(kept.token) else kept.token

    def get(self, token_id: str) -> Token | None:
        """Return the valid token with this id, or None."""
        for kept in self._by_digest.values():
            if kept.token.id == token_id and not _is_over(kept.token):
                return kept.token
        return None

    async def sweep(self) -> None:
        """Revoke what has expired; what cannot be deleted now is left to the next sweep."""
        for token in self.list():
            if _is_over(token):
                try:
                    await self._forget(token.id)
                except OrbitError as error:
                    logger.warning("token %s expired but stays on disk: %s", token.id, error)
                else:
                    logger.info("token %s of %s expired", token.id, token.owner)

    def _ended(self, token_id: str) -> None:
        for callback in self._on_end:
            callback(token_id)


class Guesses:
    """Count wrong tokens per address; a right one is never refused because of its neighbours."""

    def __init__(self) -> None:
        """Begin without any."""
        self._failures: dict[str, deque[float]] = {}
        self._clock = time.monotonic

    def failed(self, address: str) -> None:
        """Note a wrong token.

        Raises TooManyRequests after `FAILURES` in `FAILURE_WINDOW` seconds.
        """
        now = self._clock()
        if address not in self._failures and len(self._failures) >= ADDRESSES_WATCHED:
            self._failures.pop(next(iter(self._failures)))
        recent = self._failures.setdefault(address, deque(maxlen=FAILURES + 1))
        while recent and recent[0] <= now - FAILURE_WINDOW:
            recent.popleft()
        if len(recent) == FAILURES:
            logger.warning("%s shows wrong tokens: answering 429", address)
        recent.append(now)
        if len(recent) > FAILURES:
            wait = FAILURE_WINDOW - (now - recent[0])
            raise TooManyRequests("too many wrong tokens from your address: wait", retry_after=wait)


class Authenticator:
    """Turn a request's headers into a principal."""

    def __init__(self, tokens: Tokens, *, enabled: bool, cookie_ttl: float) -> None:
        """Check against ``tokens``, unless not ``enabled``: then everybody is an administrator."""
        self.tokens = tokens
        self.enabled = enabled
        self.cookies = Cookies(cookie_ttl)
        self._guesses = Guesses()
        tokens.on_end(self.cookies.close_all_of)

    def principal(self, headers: Headers, address: str) -> Principal:
        """Return who the headers speak for. Raises Unauthorized, Forbidden, TooManyRequests."""
        return _principal(self.token(headers, address)) if self.enabled else ANYBODY

    def token(self, headers: Headers, address: str, *, by_cookie: bool = True) -> Token:
        """Return the token that the headers show, by bearer or, unless not so, by cookie."""
        bearer = cookie = origin = host = b""
        for name, value in headers:
            match name:
                case b"authorization":
                    bearer = value
                case b"cookie":
                    cookie = value
                case b"origin":
                    origin = value
                case b"host":
                    host = value
        if bearer:
            scheme, _, text = bearer.decode("latin-1").partition(" ")
            found = self.tokens.find(text.strip()) if scheme.lower() == "bearer" else None
        else:
            found = self._by_cookie(headers) if by_cookie else None
            if found is not None and origin and origin.partition(b"://")[2] != host:
                raise Forbidden("this cookie is not for pages of another origin")
        if found is None:
            self._refuse(bearer or (cookie if by_cookie else b""), address)
        return found

    def cookie(self, headers: Headers) -> str:
        """Return the digest of the cookie that lets a request in, if it is a cookie that does."""
        return "" if dict(headers).get(b"authorization") else self.cookies.shown(headers)

    def _by_cookie(self, headers: Headers) -> Token | None:
        return self.tokens.get(self.cookies.token_id(self.cookies.shown(headers)))

    def _refuse(self, shown: bytes, address: str) -> NoReturn:
        if shown:
            self._guesses.failed(address)
            raise Unauthorized(
                "this token is not valid here: ask for a new one, or check which bridge this is"
            )
        raise Unauthorized("show a token: Authorization: Bearer …")


def _principal(token: Token) -> Principal:
    return Principal(token.owner, token.role, token.id)


def _is_over(token: Token) -> bool:
    return token.expires is not None and token.expires <= time.time()


async def open_first_token(tokens: Tokens, state_dir: Path, given: str | None) -> None:
    """Accept the token that is given as an administrator's, or make one on the first start.

    One that was given to an earlier process, and is not to this, is accepted no more.
    """
    await tokens.forget_given(but=given)
    if given is not None:
        if tokens.find(given) is None:
            await tokens.create(Role.ADMIN, "admin", text=given)
        return
    path = state_dir / "admin.token"
    if not (path.exists() and tokens.find(path.read_text().strip())):
        _, text = await tokens.create(Role.ADMIN, "admin")
        write_private(path, text)
