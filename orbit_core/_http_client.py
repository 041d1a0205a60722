"""Make the HTTP client with which a bridge is reached."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import httpx

from ._tls import trust
from ._transport import RetryTransport
from .config import resolve_access

CALL_TIMEOUT = 600.0
"""Seconds that a reply may take, unless the client was made with another ``timeout``."""


def connect(
    url: str | None, cert: str | Path | None, token: str | None, timeout: float
) -> httpx.AsyncClient:
    """Find the bridge, which reads files, and import what only who dials it needs."""
    access = resolve_access(url, token, cert)
    # The system's authorities take a while to read.
    secure = access.cert is not None or access.url.lower().startswith("https:")
    eager = import_module("._eager", __package__)
    transport = eager.EagerTransport(trust(access.cert) if secure else None)
    headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
    return http_client(access.url, RetryTransport(transport), headers, timeout)


def http_client(
    url: str,
    transport: httpx.AsyncBaseTransport,
    headers: Mapping[str, str] | None = None,
    timeout: float = CALL_TIMEOUT,
) -> httpx.AsyncClient:
    """Return a client that sends through ``transport``, to which ``url`` belongs."""
    return httpx.AsyncClient(
        base_url=url,
        transport=transport,
        headers=headers,
        timeout=httpx.Timeout(30.0, read=timeout),
    )
