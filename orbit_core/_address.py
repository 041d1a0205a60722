"""Tell others how to reach the bridge: by a name for which its certificate is valid."""

import ipaddress
import shutil
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ._server import is_loopback
from ._tls import trust
from .config import BridgeConfig, write_private


def public_url(url: str, config: BridgeConfig) -> str:
    """Return the URL to tell others of a bridge that serves at ``url``; reads files.

    A host for which the certificate is not valid is no use to anybody: another name of the
    certificate takes its place, one that only this host has last of all.
    """
    if config.cert is None or config.key is None or is_loopback(config.host):
        return url
    parts = urlsplit(url)
    host = _fitting(parts.hostname or "", certificate_names(config.cert, config.key))
    place = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{place}:{parts.port}"


def _fitting(host: str, names: list[str]) -> str:
    if not is_loopback(host) and {host, f"*.{host.partition('.')[2]}"} & set(names):
        return host
    return min((name for name in names if "*" not in name), key=is_loopback, default=host)


def certificate_names(cert: Path, key: Path) -> list[str]:
    """Return the DNS names and the addresses in a certificate's SAN; reads files.

    Python shows them of a peer that it has verified: the certificate is shown to ourselves. One
    that no client takes, because it has expired, has none.
    """
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(cert, key)
    client_context = trust(cert)
    client_context.check_hostname = False
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(back, there)
    server = server_context.wrap_bio(there, back, server_side=True)
    for side in (client, server):  # which in TLS 1.3 is all that a client needs
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    try:
        client.do_handshake()
    except ssl.SSLError:
        return []
    found: Any = client.getpeercert()
    return [_canonical(*entry) for entry in found.get("subjectAltName", ())]


def _canonical(kind: str, name: str) -> str:
    return str(ipaddress.ip_address(name)) if kind == "IP Address" else name.lower()


def leave_traces(state_dir: Path, url: str, cert: Path | None) -> None:
    """Write down how clients and endpoints on this host reach the bridge."""
    write_private(state_dir / "url", url)
    if cert is not None:
        shutil.copyfile(cert, state_dir / "cert.pem")
    else:
        (state_dir / "cert.pem").unlink(missing_ok=True)
