"""Measure what starting costs: the import, the servers, and many endpoints on one bridge."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from sites import HERE, ROUNDS, TOKEN, Row

CROWD = 1_000

STARTS = 11
"""Rounds of a start: where a machine changes its speed within seconds, five tell little."""

AS_INSTALLED = "import sys; sys.modules['pygments'] = None; "
"""What begins a program as in a user's installation, where httpx finds no pygments and no rich."""

SERVE = f"{AS_INSTALLED}from orbit_core.serve import main; main()"


def import_row() -> Row:
    """Measure how long the import takes, less the start of Python itself, and with a client."""
    imports = ("import orbit_core", "from orbit_core import BridgeClient")
    codes = ("", *(f"{AS_INSTALLED}{code}" for code in imports))
    rounds = [[run_python(code) for code in codes] for _ in range(ROUNDS)]
    bare, found, client = (statistics.median(column) * 1000 for column in zip(*rounds, strict=True))
    figures = f"{found - bare:.0f} ms; with BridgeClient {client - bare:.0f} ms"
    return Row("import orbit_core", "<= 200 ms", found - bare <= 200, figures)


def run_python(code: str) -> float:
    """Return the seconds that a new Python takes to run ``code``."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.monotonic() - start


@contextmanager
def started(state: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """Run ``orbit-serve``; give its ready line and the seconds until that came."""
    command = [sys.executable, "-c", SERVE, *arguments]
    environment = {**os.environ, "XDG_STATE_HOME": state, "ORBIT_TOKEN": TOKEN}
    start = time.monotonic()
    process = subprocess.Popen(
        [*command, "--log-level", "ERROR"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        yield process, line, time.monotonic() - start
    finally:
        process.terminate()
        process.wait()


def start_row() -> Row:
    """Measure the start of a bridge and of an endpoint with all installed plugins."""
    bridges, endpoints = [], []
    for _ in range(STARTS):
        with (
            tempfile.TemporaryDirectory(prefix="orbit-bench-") as state,
            started(state, "--role", "bridge", "--port", "0") as (_, line, bridge),
            started(state, "--role", "endpoint", "--name", "node", "--url", line.split()[-1]) as (
                _,
                _,
                endpoint,
            ),
        ):
            bridges.append(bridge)
            endpoints.append(endpoint)
    bridge, endpoint = statistics.median(bridges), statistics.median(endpoints)
    figures = f"bridge {bridge:.2f} s, endpoint {endpoint:.2f} s"
    return Row("start to ready", "<= 1 s", max(bridge, endpoint) <= 1, figures)


def crowd_row() -> Row:
    """Measure a bridge with many idle endpoints: its memory, and how long the last ones join."""
    with (
        tempfile.TemporaryDirectory(prefix="orbit-bench-") as state,
        started(state, "--role", "bridge", "--port", "0") as (bridge, line, _),
    ):
        server = psutil.Process(bridge.pid)
        before = server.memory_info().rss
        command = [sys.executable, str(HERE / "crowd.py"), line.split()[-1], str(CROWD)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as crowd:
            assert crowd.stdout is not None
            joins = [float(crowd.stdout.readline()) for _ in range(CROWD)]
            time.sleep(2)  # idle means that the last announcements are through
            grown = (server.memory_info().rss - before) / 2**20
            crowd.kill()
    early, late = (statistics.median(part) * 1000 for part in (joins[5:105], joins[-100:]))
    what = f"{CROWD:,} idle endpoints on one bridge"
    holds = grown <= 60 and late <= 2 * early
    figures = f"{grown:.0f} MiB; the first hundred join in {early:.1f} ms, the last in {late:.1f}"
    return Row(what, "<= 60 MiB; the last join as fast as the first, within 2 x", holds, figures)
