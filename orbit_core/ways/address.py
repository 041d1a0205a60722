"""Tell where things are: a bridge by its URL, and this host by its names and addresses."""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import psutil
from anyio.abc import ByteStream


def host_and_port(url: str) -> tuple[str, int]:
    """Return host and port of a URL; without a port it is that of its scheme."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme in ("https", "wss") else 80)
    return parts.hostname or "", port


def joined(host: str, port: int) -> str:
    """Return HOST:PORT, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def named_proxy(url: str, *, always: bool = False) -> str | None:
    """Return the HTTP proxy that the environment names for ``url`` (HTTPS_PROXY, NO_PROXY).

    ``always`` leaves NO_PROXY out of account. For ``http:`` a proxy for HTTPS serves too.
    """
    if not always and proxy_bypass(joined(*host_and_port(url))):
        return None
    proxies = getproxies()
    names = ("https",) if url.startswith("https") else ("https", "http")
    found = (proxies.get(name, "") for name in names)
    return next((proxy for proxy in found if proxy.startswith("http")), None)


def own_node_name() -> str:
    """Return what this host is called: within a SLURM job by its scheduler, else by itself."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def own_addresses() -> list[str]:
    """Return the names and addresses under which other hosts may know this one, best first."""
    found = [socket.gethostname()]
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            is_local = each.address.startswith(("127.", "::1", "fe80:"))
            if each.family in (socket.AF_INET, socket.AF_INET6) and not is_local:
                found.append(each.address)
    return list(dict.fromkeys(found))


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def first_open(hosts: Sequence[str], port: int, *, patience: float) -> str | None:
    """Return the first of ``hosts`` that takes a connection, None if none does."""
    found: list[str] = []

    async def note(host: str, stream: ByteStream) -> None:
        found.append(host)
        group.cancel_scope.cancel()
        await anyio.aclose_forcefully(stream)

    async def look(host: str) -> None:
        with suppress(OSError):
            await note(host, await anyio.connect_tcp(host, port))

    with anyio.move_on_after(patience):
        async with anyio.create_task_group() as group:
            for host in hosts:
                group.start_soon(look, host)
    return found[0] if found else None
