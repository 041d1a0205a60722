"""Say whom a TLS connection trusts, and what to do where that fails."""

import ssl
from pathlib import Path

from .errors import ConfigError

_FINAL = {
    "CERTIFICATE_VERIFY_FAILED": (
        "trust the bridge's certificate with --cert or ORBIT_CERT, "
        "and call the bridge by a name that is in it"
    ),
    "WRONG_VERSION_NUMBER": "what answers there speaks no TLS: is the bridge's URL http://?",
}
"""Faults that no repetition mends, by a word of OpenSSL's, with what to do."""


def trust(cert: Path | None) -> ssl.SSLContext:
    """Return a TLS context that trusts ``cert`` alone, or the system's authorities without it.

    Raises ConfigError if the file is no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=None if cert is None else str(cert))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the certificate {cert} cannot be used: {error}") from None
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a pinned one need not be self-signed
    return context


def advice(reason: str) -> str:
    """Return what to do about a fault of TLS, after a colon, or nothing."""
    return next((f": {todo}" for word, todo in _FINAL.items() if word in reason), "")
