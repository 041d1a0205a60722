"""Measure small requests; ``wrk`` makes the load."""

import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sites import ROUNDS, TOKEN, Row, Site

RATE_SECONDS = 2
LATENCY_SECONDS = 1
LATENCY_ROUNDS = 15
"""Rounds of one connection: where a machine changes its speed within seconds, five tell little."""

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def load(url: str, connections: int, seconds: int) -> tuple[float, float]:
    """Return requests per second and the median latency in seconds."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency"]
    command += ["-H", f"Authorization: Bearer {TOKEN}", f"{url}/answer"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in printed:
        sys.exit(f"{url} answers with errors:\n{printed}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    median = re.search(r"50%\s+([\d.]+)(us|ms|s)", printed)
    assert rate is not None
    assert median is not None
    return float(rate[1]), float(median[1]) * UNITS[median[2]]


@contextmanager
def on_one_processor(site: Site) -> Iterator[None]:
    """Have the load and all servers share one processor.

    With one connection only one of them works at a time. How long a virtual machine takes to wake
    another processor changes from second to second, and would count three times against once.
    """
    processors = os.sched_getaffinity(0)
    _confine(site, {min(processors)})
    try:
        yield
    finally:
        _confine(site, processors)


def _confine(site: Site, processors: set[int]) -> None:
    os.sched_setaffinity(0, processors)  # `wrk` is started on the same
    for process in site.processes:
        for thread in process.threads():
            os.sched_setaffinity(thread.id, processors)


def request_rows(site: Site, suffix: str) -> list[Row]:
    """Measure the request rows."""
    sides = (site.bare, site.orbit)
    rates = [[load(side, 64, RATE_SECONDS)[0] for side in sides] for _ in range(ROUNDS)]
    with on_one_processor(site):
        medians = [
            [load(side, 1, LATENCY_SECONDS)[1] for side in sides] for _ in range(LATENCY_ROUNDS)
        ]
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
