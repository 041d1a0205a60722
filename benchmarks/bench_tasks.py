"""Measure tasks sent through ORBIT against RHAPSODY called directly on the same tasks.

Bridge, endpoint and RHAPSODY's baseline are processes of their own.
"""

import asyncio
import contextlib
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import psutil
import rhapsody
from orbit_rhapsody import OrbitExecutor
from rhapsody import ComputeTask, Session
from sites import ROUNDS, TOKEN, Row

from orbit_core import BridgeClient

MANY = 10_000
SINGLES = 200
EXECUTABLES = 500
TOTAL = 100_000


@attrs.frozen
class Place:
    """Hold the bridge's URL and the endpoint's process."""

    url: str
    endpoint: psutil.Process

    def executor(self, backend: str) -> OrbitExecutor:
        """Return an executor that is warm."""
        executor = OrbitExecutor(self.url, "node", token=TOKEN, backends=[backend])
        functions(executor, 1000)
        return executor


@contextlib.contextmanager
def open_tasks_site() -> Iterator[Place]:
    """Start a bridge and an endpoint."""
    with tempfile.TemporaryDirectory(prefix="orbit-bench-") as folder:
        yield from _open_tasks_site(Path(folder))


def _open_tasks_site(work: Path) -> Iterator[Place]:
    serve = Path(sys.executable).parent / "orbit-serve"
    config = work / "orbit.toml"
    config.write_text('[plugin.rhapsody]\nbackends = ["concurrent", "noop"]\n')
    environment = {**os.environ, "ORBIT_TOKEN": TOKEN}
    with contextlib.ExitStack() as stack:

        def start(ready: str, *options: str) -> tuple[str, int]:
            command = [str(serve), "--config", str(config), *options]
            process = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            for line in process.stdout:
                found = re.search(ready, line)
                if found:
                    return found[1], process.pid
            sys.exit(f"{command} does not start")

        url, _ = start(
            r"bridge ready: (\S+)",
            "--role",
            "bridge",
            "--port",
            "0",
            "--state-dir",
            str(work / "b"),
        )
        endpoint = ("--role", "endpoint", "--name", "node", "--plugins", "rhapsody")
        _, pid = start("(ready)", *endpoint, "--url", url, "--state-dir", str(work / "e"))
        yield Place(url, psutil.Process(pid))


async def _native(backend: str, make: Callable[[int], Any], count: int, rounds: int) -> float:
    """Return the seconds that RHAPSODY takes for ``count`` tasks, the best known to it."""
    session = Session(backends=[await rhapsody.get_backend(backend)])
    seconds = []
    for _ in range(rounds):
        tasks = [make(number) for number in range(count)]
        begin = time.perf_counter()
        await session.submit_tasks(tasks)
        await session.wait_tasks(tasks)
        seconds.append(time.perf_counter() - begin)
    await session.close()
    return statistics.median(seconds)


def native(backend: str, kind: str, count: int, rounds: int = 1) -> float:
    """Measure RHAPSODY directly, in a process of its own."""
    command = [sys.executable, __file__, backend, kind, str(count), str(rounds)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    return float(done.stdout.split()[-1])


def functions(executor: OrbitExecutor, count: int) -> float:
    """Return the seconds from the first submit to the last result."""
    begin = time.perf_counter()
    futures = [executor.submit(math.sqrt, float(number)) for number in range(count)]
    for future in futures:
        future.result()
    return time.perf_counter() - begin


def single(executor: OrbitExecutor) -> float:
    """Return the median seconds from submit to result of one function."""
    seconds = []
    for _ in range(SINGLES):
        begin = time.perf_counter()
        executor.submit(math.sqrt, 1.0).result()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def throughput_row(place: Place, backend: str, must: float) -> Row:
    """Measure many no-op functions."""
    with place.executor(backend) as executor:
        pairs = [
            (native(backend, "function", MANY), functions(executor, MANY)) for _ in range(ROUNDS)
        ]
    ratio = statistics.median(direct / through for direct, through in pairs)
    rates = [MANY / statistics.median(column) for column in zip(*pairs, strict=True)]
    return Row(
        f"{MANY:,} no-op functions, backend {backend}",
        f">= {must} x RHAPSODY",
        ratio >= must,
        f"{ratio:.2f} x ({rates[1]:,.0f}/s to {rates[0]:,.0f}/s)",
    )


def single_row(place: Place) -> Row:
    """Measure the latency of one function."""
    with place.executor("concurrent") as executor:
        pairs = [
            (native("concurrent", "function", 1, SINGLES), single(executor)) for _ in range(ROUNDS)
        ]
    added = statistics.median(through - direct for direct, through in pairs) * 1000
    return Row(
        "one no-op function, submit to result, p50",
        "<= RHAPSODY + 3 ms",
        added <= 3,
        f"+{added:.2f} ms",
    )


def executables_row(place: Place) -> Row:
    """Measure executables."""
    pairs = []
    with BridgeClient(place.url, token=TOKEN) as bridge:
        client = bridge.get_endpoint_client("node").get_plugin("rhapsody", backends=["concurrent"])
        for _ in range(ROUNDS):
            direct = native("concurrent", "executable", EXECUTABLES)
            begin = time.perf_counter()
            tasks = client.submit_tasks([{"executable": "/bin/true"}] * EXECUTABLES)
            assert {task["state"] for task in client.wait_tasks(tasks)} == {"DONE"}
            pairs.append((direct, time.perf_counter() - begin))
        client.unregister_session()
    ratio = statistics.median(direct / through for direct, through in pairs)
    rate = EXECUTABLES / statistics.median(through for _, through in pairs)
    return Row(
        f"{EXECUTABLES} executables /bin/true",
        ">= 0.8 x RHAPSODY",
        ratio >= 0.8,
        f"{ratio:.2f} x ({rate:,.0f}/s)",
    )


def memory_row(place: Place) -> Row:
    """Measure by how much the endpoint has grown once many results were fetched."""
    with place.executor("concurrent") as executor:
        functions(executor, MANY)
        before = place.endpoint.memory_info().rss
        for _ in range(TOTAL // MANY):
            functions(executor, MANY)
        grown = (place.endpoint.memory_info().rss - before) / 2**20
    what = f"growth of the endpoint by {TOTAL:,} functions"
    return Row(what, "<= 50 MiB", grown <= 50, f"{grown:.0f} MiB")


TASKS: dict[str, Callable[[Place], Row]] = {
    "concurrent": partial(throughput_row, backend="concurrent", must=0.5),
    "single": single_row,
    "memory": memory_row,
    "noop": partial(throughput_row, backend="noop", must=0.25),
    "executables": executables_row,
}


def _baseline(backend: str, kind: str, count: str, rounds: str) -> None:
    def make(number: int) -> Any:
        if kind == "function":
            return ComputeTask(function=math.sqrt, args=(float(number),))
        return ComputeTask(executable="/bin/true")

    print(asyncio.run(_native(backend, make, int(count), int(rounds))))


if __name__ == "__main__":
    _baseline(*sys.argv[1:])
