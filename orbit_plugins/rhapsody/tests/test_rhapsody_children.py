import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from orbit_rhapsody.children import REAPED_ELSEWHERE, watch_children


@pytest.fixture(autouse=True)
def watched() -> Iterator[None]:
    watch_children()
    yield
    asyncio.set_event_loop_policy(None)


async def _run(*command: str) -> int | None:
    process = await asyncio.create_subprocess_exec(*command)
    await process.wait()
    return process.returncode


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9)], ids=str
)
def test_a_loop_hears_how_its_process_ended(script: str, code: int) -> None:
    assert asyncio.run(_run("sh", "-c", script)) == code


def test_each_loop_hears_of_its_own_processes() -> None:
    together = threading.Barrier(2)

    async def run(code: int) -> list[int | None]:
        together.wait()
        return [await _run("sh", "-c", f"exit {code}") for _ in range(10)]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda code: asyncio.run(run(code)), [3, 4]))
    assert found == [[3] * 10, [4] * 10]


def test_no_thread_waits_for_a_process() -> None:
    async def count() -> int:
        process = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
        threads = threading.active_count()
        await process.communicate(b"")
        return threads

    before = threading.active_count()
    assert asyncio.run(count()) == before


def test_a_process_that_was_reaped_elsewhere_has_an_unknown_end() -> None:
    async def run() -> int | None:
        process = await asyncio.create_subprocess_exec("sleep", "600")
        process.kill()
        os.waitpid(process.pid, 0)  # noqa: ASYNC222  # before the loop turns
        await process.wait()
        return process.returncode

    assert asyncio.run(run()) == REAPED_ELSEWHERE
