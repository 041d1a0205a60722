"""Keep the cookies that stand for tokens in browsers: random, hashed, in memory, for a time."""

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable

import attrs
from starlette.requests import cookie_parser

COOKIE = "orbit_session"

COOKIES = 100
"""Cookies that one token may have at one time; the oldest ends for one more."""


@attrs.frozen
class _Kept:
    """Hold the token that a cookie stands for; ``until`` is on the monotonic clock."""

    token_id: str
    until: float


class Cookies:
    """Keep cookies under their digests, and tell who listens when one ends."""

    def __init__(self, ttl: float) -> None:
        """Let each live ``ttl`` seconds."""
        self.ttl = ttl
        self._by_digest: dict[str, _Kept] = {}
        self._on_end: list[Callable[[str], None]] = []

    def on_end(self, callback: Callable[[str], None]) -> None:
        """Call ``callback(digest)`` whenever a cookie is closed or runs out."""
        self._on_end.append(callback)

    def open(self, token_id: str) -> str:
        """Return a new random cookie that stands for a token."""
        for key in self._of(token_id)[: 1 - COOKIES]:
            self.close(key)
        value = secrets.token_urlsafe(32)
        self._by_digest[digest(value)] = _Kept(token_id, time.monotonic() + self.ttl)
        return value

    def shown(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Return the digest of the cookie that a request's headers show, or nothing."""
        header = dict(headers).get(b"cookie", b"").decode("latin-1")
        key = digest(cookie_parser(header).get(COOKIE, ""))
        return key if key in self._by_digest else ""

    def token_id(self, key: str) -> str:
        """Return the token that a living cookie stands for, or nothing."""
        kept = self._by_digest.get(key)
        return kept.token_id if kept is not None and kept.until > time.monotonic() else ""

    def close(self, key: str) -> None:
        """Forget a cookie, if there is one."""
        if self._by_digest.pop(key, None) is not None:
            for callback in self._on_end:
                callback(key)

    def close_all_of(self, token_id: str) -> None:
        """Forget the cookies of a token."""
        for key in self._of(token_id):
            self.close(key)

    def sweep(self) -> None:
        """Forget those that ran out."""
        for key in [key for key in self._by_digest if not self.token_id(key)]:
            self.close(key)

    def _of(self, token_id: str) -> list[str]:
        """Return a token's cookies, oldest first."""
        return [key for key, kept in self._by_digest.items() if kept.token_id == token_id]


def digest(text: str) -> str:
    """Return what is kept of a secret: its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()
