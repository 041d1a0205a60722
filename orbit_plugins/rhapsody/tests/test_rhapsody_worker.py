import threading
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from orbit_rhapsody.ledger import Ledger
from orbit_rhapsody.worker import Worker, WorkerStopped

from orbit_core.errors import StateUnavailable

pytestmark = pytest.mark.anyio


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    found = Worker("a worker")
    yield found
    found.stop()


async def test_functions_run_one_after_the_other_in_a_thread_of_that_name(worker: Worker) -> None:
    names: list[tuple[int, str]] = []

    async def note(number: int) -> None:
        await worker.run(lambda: names.append((number, threading.current_thread().name)))

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(note, number)
    assert names == [(number, "a worker") for number in range(5)]


async def test_what_a_function_raises_comes_out_and_ends_nothing(worker: Worker) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        await worker.run(int, "x")
    assert await worker.run(int, "3") == 3


async def test_what_no_future_takes_comes_out_as_something_else(worker: Worker) -> None:
    with pytest.raises(RuntimeError, match=r"raised StopIteration\(\)"):
        await worker.run(next, iter(()))


async def test_who_is_cancelled_waits_for_the_end(worker: Worker) -> None:
    begun, go = threading.Event(), threading.Event()
    done = []

    def work() -> None:
        begun.set()
        go.wait()
        done.append(True)

    async with anyio.create_task_group() as group:
        group.start_soon(worker.run, work)
        await anyio.to_thread.run_sync(begun.wait)
        group.cancel_scope.cancel()
        go.set()
    assert done == [True]


async def test_one_that_has_stopped_says_so(worker: Worker) -> None:
    worker.stop()
    with pytest.raises(WorkerStopped, match="has stopped"):
        await worker.run(int, "3")


async def test_a_ledger_that_is_closed_says_so(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    await ledger.open(lambda connection: connection.execute("CREATE TABLE one (a)"))
    await ledger.close()
    with pytest.raises(StateUnavailable, match="cannot be kept"):
        await ledger.execute(lambda connection: None)
    with pytest.raises(StateUnavailable, match="cannot be kept"):
        await ledger.execute_one(lambda connection: None)


async def test_a_ledger_that_cannot_be_opened_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    ledger = Ledger(tmp_path / "nowhere" / "ledger.sqlite3")
    with pytest.raises(StateUnavailable, match="cannot be kept"):
        await ledger.open(lambda connection: None)
    while threading.active_count() > before:
        await anyio.sleep(0.01)
