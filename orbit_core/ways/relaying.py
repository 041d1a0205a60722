"""Prove to a parent's relay that a child is its own, without showing it the child's token."""

import base64
import binascii
import hashlib


def relay_key(token: str) -> str:
    """Return what a child shows the relay: it follows from the token, and tells nothing of it.

    On a cluster's network without TLS others may read it, and could reach no more with it than the
    bridge's own port.
    """
    return hashlib.sha256(f"orbit-relay {token}".encode()).hexdigest()


def read_credentials(header: str) -> tuple[str, str]:
    """Return name and key of ``Proxy-Authorization: Basic`` (RFC 7617), empty if it has none."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        name, _, key = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return name, key
