"""Kill endpoints and clients, and cut links: every one a process of its own."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from orbit_rhapsody import AsyncOrbitExecutor, OrbitExecutor, TaskFailed

pytestmark = pytest.mark.anyio

PATIENCE = 60.0
TOKEN = "orbit_of_a_test"
BIN = Path(sys.executable).parent

CLIENT = """
import sys, time
from orbit_rhapsody import OrbitExecutor

executor = OrbitExecutor(sys.argv[1], "node7", backends=["concurrent"])
futures = [executor.submit(pow, 2, n) for n in range(1000)]
gate = executor.submit(time.sleep, 0.5)
for future in (*futures, gate):
    print(future.uid)
executor.flush()
print("sent", flush=True)
time.sleep(600)
"""


class Servers:
    """Start bridges and endpoints, and end them all at the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.running: list[subprocess.Popen[str]] = []

    async def start(self, *options: str) -> tuple[subprocess.Popen[str], str]:
        """Start one, and return it with the address that it tells when it is ready."""
        process = await anyio.to_thread.run_sync(self._start, options)
        assert process.stdout is not None
        with anyio.fail_after(PATIENCE):
            line = await anyio.to_thread.run_sync(process.stdout.readline)
        found = re.search(r"http://\S+?(?=,|$)", line)
        assert found is not None, line
        return process, found[0]

    def _start(self, options: tuple[str, ...]) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [str(BIN / "orbit-serve"), "--log-level", "ERROR", *options],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "ORBIT_TOKEN": TOKEN},
        )
        self.running.append(process)
        return process

    async def bridge(self) -> str:
        state = str(self._directory / "bridge")
        _, url = await self.start("--role", "bridge", "--port", "0", "--state-dir", state)
        return url

    async def endpoint(self, url: str) -> "subprocess.Popen[str]":
        state = str(self._directory / "endpoint")
        options = ("--role", "endpoint", "--name", "node7", "--plugins", "rhapsody")
        process, _ = await self.start(*options, "--url", url, "--state-dir", state)
        return process

    def stop(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    found = Servers(tmp_path)
    yield found
    found.stop()


def reloaded(url: str, uids: list[str]) -> list[Any]:
    with OrbitExecutor(url, "node7", token=TOKEN) as executor:
        futures = executor.reload(uids)
        return [future.result(PATIENCE) for future in futures]


async def test_a_client_that_was_killed_has_its_results_fetched_by_another(
    servers: Servers,
) -> None:
    url = await servers.bridge()
    await servers.endpoint(url)
    command = [sys.executable, "-c", CLIENT, url]
    environment = {**os.environ, "ORBIT_TOKEN": TOKEN}
    text = b""
    async with await anyio.open_process(command, env=environment, stderr=None) as client:
        assert client.stdout is not None
        with anyio.fail_after(PATIENCE):
            while not text.endswith(b"sent\n"):
                text += await client.stdout.receive()
        client.kill()
        await client.wait()
    uids = text.decode().split()[:-1]
    found = await anyio.to_thread.run_sync(reloaded, url, uids)
    assert found == [2**n for n in range(1000)] + [None]


async def test_an_endpoint_that_is_killed_fails_what_ran_and_keeps_what_was_done(
    servers: Servers, tmp_path: Path
) -> None:
    url = await servers.bridge()
    endpoint = await servers.endpoint(url)
    async with AsyncOrbitExecutor(url, "node7", token=TOKEN) as executor:
        done = [await executor.submit(pow, 2, n) for n in range(100)]
        with anyio.fail_after(PATIENCE):
            assert [await future for future in done] == [2**n for n in range(100)]
        lost = [await executor.submit(time.sleep, 300) for _ in range(4)]
        last = await executor.submit(abs, -1)
        await executor.flush()
        await executor._connection.client.wait_tasks([last.uid], timeout=0.2)
        endpoint.send_signal(signal.SIGKILL)
        await anyio.to_thread.run_sync(endpoint.wait)
        await servers.endpoint(url)
        with anyio.fail_after(PATIENCE):
            for future in lost:
                with pytest.raises(TaskFailed, match="the endpoint ended before this task did"):
                    await future
            after = await executor.submit(math.sqrt, 16.0)
            assert await after == 4.0
        again = await executor.reload([future.uid for future in done])
        with anyio.fail_after(PATIENCE):
            assert [await future for future in again] == [2**n for n in range(100)]
        last.cancel()


async def test_links_cut_ten_times_lose_and_repeat_nothing(
    servers: Servers, open_proxy: Callable[[int], AbstractAsyncContextManager[Any]], tmp_path: Path
) -> None:
    url = await servers.bridge()
    port = int(url.rpartition(":")[2])
    count = 10_000
    log = tmp_path / "log"
    log.touch()

    def note(number: int, path: str) -> int:
        with open(path, "a") as sink:
            sink.write(f"{number}\n")
        return number

    settled: Counter[int] = Counter()
    async with open_proxy(port) as near, open_proxy(port) as far:
        await servers.endpoint(f"http://127.0.0.1:{near.port}")
        async with AsyncOrbitExecutor(
            f"http://127.0.0.1:{far.port}", "node7", token=TOKEN
        ) as executor:
            futures = [await executor.submit(note, n, str(log)) for n in range(count)]
            for future in futures:
                future.add_done_callback(lambda done: settled.update([done.result()]))
            cuts = 0
            with anyio.fail_after(2 * PATIENCE):
                while cuts < 10:
                    due = (cuts + 1) * count // 12
                    while settled.total() < due:
                        await anyio.sleep(0.005)
                    (near if cuts % 2 else far).cut()
                    cuts += 1
                for future in futures:
                    await future
    assert settled == Counter(range(count))
    assert Counter(map(int, log.read_text().split())) == Counter(range(count))
