"""Start sets of servers to measure, and say what a row of the table is."""

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import httpx
import psutil
import trustme

HERE = Path(__file__).resolve().parent
TOKEN = "orbit_benchmark_only"
ROUNDS = 5
MEMORY = Path("/dev/shm")


@attrs.frozen
class Row:
    """Hold one line of the table."""

    what: str
    must: str
    holds: bool
    figures: str


@attrs.frozen
class Site:
    """Hold the addresses and processes of one set of servers.

    ``files`` is where they and their clients keep files: in memory, if there is a place for that,
    since a disk would be what is measured.
    """

    bare: str
    orbit: str
    processes: list[psutil.Process]
    files: Path
    cert: Path | None = None


def free_port() -> int:
    """Return a port that nobody listens on at present."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(url: str, cert: Path | None) -> None:
    """Wait until a server answers with 200."""
    give_up = time.monotonic() + 20
    with client(cert) as found:
        while time.monotonic() < give_up:
            with contextlib.suppress(httpx.TransportError):
                if found.get(url).status_code == 200:
                    return
            time.sleep(0.05)
    sys.exit(f"{url} does not answer")


def client(cert: Path | None) -> httpx.Client:
    """Return a client that shows the token."""
    verify = ssl.create_default_context(cafile=str(cert)) if cert else True
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return httpx.Client(verify=verify, headers=headers, timeout=300)


@contextlib.contextmanager
def open_site(*, tls: bool) -> Iterator[Site]:
    """Start the bare application, a bridge and an endpoint, with their state in a new folder."""
    memory = MEMORY if MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="orbit-bench-") as folder,
        tempfile.TemporaryDirectory(prefix="orbit-bench-", dir=memory) as files,
    ):
        yield from _open_site(Path(folder), Path(files), tls=tls)


def _open_site(work: Path, files: Path, *, tls: bool) -> Iterator[Site]:
    cert = key = None
    if tls:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        cert, key, trusted = work / "cert.pem", work / "key.pem", work / "ca.pem"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        key.chmod(0o600)
        authority.cert_pem.write_to_path(str(trusted))
    scheme, bare, bridge = ("https" if tls else "http"), free_port(), free_port()
    secrets = [str(cert or ""), str(key or "")]
    trust = str(work / "ca.pem") if tls else ""
    url = f"{scheme}://127.0.0.1:{bridge}"
    environment = {**os.environ, "ORBIT_TOKEN": TOKEN, "BENCH_FILES": str(files)}
    commands = [
        ["bare", str(bare), *secrets],
        ["bridge", str(bridge), str(work / "bridge"), *secrets],
        ["endpoint", url, "node", str(work / "endpoint"), TOKEN, trust],
    ]
    processes = [
        subprocess.Popen([sys.executable, HERE / "servers.py", *command], cwd=HERE, env=environment)
        for command in commands
    ]
    try:
        site = Site(
            f"{scheme}://127.0.0.1:{bare}/node/load",
            f"{url}/node/load",
            [psutil.Process(process.pid) for process in processes],
            files,
            work / "ca.pem" if tls else None,
        )
        for address in (site.bare, site.orbit):
            wait_for(f"{address}/answer", site.cert)
        yield site
    finally:
        for process in processes:
            process.kill()
            process.wait()
