"""Measure bodies of 1 GiB, and what they cost everybody else."""

import re
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator

from bench_requests import UNITS
from sites import ROUNDS, TOKEN, Row, Site, client

GIB = 1024**3


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


def bystander_row(site: Site) -> Row:
    """Measure another client's calls while 1 GiB goes up and 1 GiB comes down."""
    found = []
    for _ in range(ROUNDS):
        for move in (upload, download):
            transfer = threading.Thread(target=move, args=[site.orbit])
            transfer.start()
            found.append(percentile_99(f"{site.orbit}/answer"))
            transfer.join()
    worst = statistics.median(found) * 1000
    what = "p99 of another client's calls meanwhile"
    return Row(what, "<= 50 ms", worst <= 50, f"{worst:.1f} ms")


def percentile_99(url: str) -> float:
    """Return the 99th percentile of the latency of one connection, in seconds."""
    command = ["wrk", "-t1", "-c1", "-d1", "--latency", "-H", f"Authorization: Bearer {TOKEN}", url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"99%\s+([\d.]+)(us|ms|s)", printed)
    assert found is not None
    return float(found[1]) * UNITS[found[2]]
