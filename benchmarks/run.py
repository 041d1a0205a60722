"""Measure ORBIT against a bare application in the same run, and write the table of ratios.

Every row interleaves its rounds with those of its baseline and gives medians: ratios hold on a
noisy machine, single figures do not. ``wrk`` makes the load of the request rows.
"""

import contextlib
import os
import re
import shutil
import socket
import ssl
import statistics
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
SECONDS = 2
GIB = 1024**3
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@attrs.frozen
class Row:
    """Hold one line of the table."""

    what: str
    must: str
    holds: bool
    figures: str


@attrs.frozen
class Site:
    """Hold the addresses and processes of one set of servers."""

    bare: str
    orbit: str
    processes: list[psutil.Process]
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
def open_site(work: Path, *, tls: bool) -> Iterator[Site]:
    """Start the bare application, a bridge and an endpoint."""
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
    files = [str(cert or ""), str(key or "")]
    trust = str(work / "ca.pem") if tls else ""
    url = f"{scheme}://127.0.0.1:{bridge}"
    environment = {**os.environ, "ORBIT_TOKEN": TOKEN}
    commands = [
        ["bare", str(bare), *files],
        ["bridge", str(bridge), str(work / "bridge"), *files],
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
            work / "ca.pem" if tls else None,
        )
        for address in (site.bare, site.orbit):
            wait_for(f"{address}/answer", site.cert)
        yield site
    finally:
        for process in processes:
            process.kill()
            process.wait()


def load(url: str, connections: int) -> tuple[float, float]:
    """Return requests per second and the median latency in seconds."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}", "--latency"]
    command += ["-H", f"Authorization: Bearer {TOKEN}", f"{url}/answer"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in printed:
        sys.exit(f"{url} answers with errors:\n{printed}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    median = re.search(r"50%\s+([\d.]+)(us|ms|s)", printed)
    assert rate is not None
    assert median is not None
    return float(rate[1]), float(median[1]) * UNITS[median[2]]


def request_rows(site: Site, suffix: str) -> list[Row]:
    """Measure the request rows."""
    rates, medians = [], []
    for _ in range(ROUNDS):
        rates.append((load(site.bare, 64)[0], load(site.orbit, 64)[0]))
        medians.append((load(site.bare, 1)[1], load(site.orbit, 1)[1]))
    rate = statistics.median(orbit / bare for bare, orbit in rates)
    latency = statistics.median(orbit / bare for bare, orbit in medians)
    bare_rate, orbit_rate = (statistics.median(column) for column in zip(*rates, strict=True))
    bare_p50, orbit_p50 = (statistics.median(column) for column in zip(*medians, strict=True))
    return [
        Row(
            f"requests through bridge and endpoint, 64 connections{suffix}",
            ">= 0.30 x the bare application",
            rate >= 0.30,
            f"{rate:.2f} x ({orbit_rate:,.0f}/s to {bare_rate:,.0f}/s)",
        ),
        Row(
            f"one connection, p50{suffix}",
            "<= 4 x the bare application",
            latency <= 4,
            f"{latency:.1f} x ({orbit_p50 * 1e6:.0f} us to {bare_p50 * 1e6:.0f} us)",
        ),
    ]


def upload(url: str) -> float:
    """Send 1 GiB and return the seconds that it took."""
    chunk = bytes(256 * 1024)

    def body() -> Iterator[bytes]:
        for _ in range(GIB // len(chunk)):
            yield chunk

    start = time.monotonic()
    with client(None) as found:
        reply = found.post(f"{url}/sink", content=body(), headers={"Content-Length": str(GIB)})
    assert reply.json() == {"size": GIB}, reply.text
    return time.monotonic() - start


def download(url: str) -> float:
    """Receive 1 GiB and return the seconds that it took."""
    start = time.monotonic()
    size = 0
    with client(None) as found, found.stream("GET", f"{url}/source", params={"size": GIB}) as reply:
        for chunk in reply.iter_raw():
            size += len(chunk)
    assert size == GIB
    return time.monotonic() - start


def transfer_rows(site: Site) -> list[Row]:
    """Measure the transfer of 1 GiB each way, and what bridge and endpoint grow by."""
    servers = site.processes[1:]
    before = [process.memory_info().rss for process in servers]
    rows, grown = [], 0
    for name, move in (("upload", upload), ("download", download)):
        pairs = []
        for _ in range(ROUNDS):
            pairs.append((move(site.bare), move(site.orbit)))
            now = [process.memory_info().rss for process in servers]
            grown = max(grown, *(after - first for after, first in zip(now, before, strict=True)))
        ratio = statistics.median(bare / orbit for bare, orbit in pairs)
        speed = 1024 / statistics.median(orbit for _, orbit in pairs)
        figures = f"{ratio:.2f} x ({speed:,.0f} MiB/s)"
        rows.append(Row(f"1 GiB {name}", ">= 0.3 x the bare application", ratio >= 0.3, figures))
    mebibytes = grown / 2**20
    what = "growth of bridge or endpoint meanwhile"
    rows.append(Row(what, "<= 64 MiB", mebibytes <= 64, f"{mebibytes:.0f} MiB"))
    return rows


def import_row() -> Row:
    """Measure how long ``import orbit_core`` takes, less the start of Python itself."""
    pairs = []
    for _ in range(ROUNDS):
        seconds = []
        for code in ("pass", "import orbit_core"):
            start = time.monotonic()
            subprocess.run([sys.executable, "-c", code], check=True)
            seconds.append(time.monotonic() - start)
        pairs.append(seconds[1] - seconds[0])
    found = statistics.median(pairs) * 1000
    return Row("import orbit_core", "<= 200 ms", found <= 200, f"{found:.0f} ms")


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| what | must | measured | holds |", "|---|---|---|---|"]
    lines += [f"| {r.what} | {r.must} | {r.figures} | {'yes' if r.holds else 'NO'} |" for r in rows]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write ``results.md``."""
    if shutil.which("wrk") is None:
        sys.exit("this needs the load generator wrk: apt-get install wrk")
    rows: list[Row] = []
    for tls in (False, True):
        with (
            tempfile.TemporaryDirectory(prefix="orbit-bench-") as folder,
            open_site(Path(folder), tls=tls) as site,
        ):
            rows += request_rows(site, ", TLS" if tls else "")
            rows += [] if tls else transfer_rows(site)
    rows.append(import_row())
    text = table(rows)
    print(text)
    heading = "# Results\n\nWritten by `make bench`; medians of interleaved rounds.\n\n"
    (HERE / "results.md").write_text(f"{heading}{text}\n")


if __name__ == "__main__":
    main()
