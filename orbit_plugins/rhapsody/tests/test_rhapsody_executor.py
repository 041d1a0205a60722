import asyncio
import concurrent.futures
import itertools
import math
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from orbit_rhapsody import (
    AsyncOrbitExecutor,
    NotPicklable,
    OrbitExecutor,
    PythonMismatch,
    RemoteTraceback,
    TaskCancelled,
    TaskFailed,
    UnknownFunction,
    UnknownTask,
)

from orbit_core.config import BridgeConfig
from orbit_core.errors import EndpointLost, UnknownEndpoint, UnknownRoute
from orbit_core.testing import open_deployment

PATIENCE = 30.0


class Site:
    """Be a bridge and an endpoint in a thread of their own."""

    def __init__(self, url: str, token: str, directory: Path) -> None:
        self.url = url
        self.token = token
        self.directory = directory

    def executor(self, **options: Any) -> OrbitExecutor:
        return OrbitExecutor(self.url, "node7", token=self.token, **options)

    def async_executor(self, **options: Any) -> AsyncOrbitExecutor:
        return AsyncOrbitExecutor(self.url, "node7", token=self.token, **options)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    plugins = {"node7": ["orbit_rhapsody.plugin:RhapsodyPlugin"]}
    with start_blocking_portal() as portal:
        opened = open_deployment(directory, plugins=plugins)
        with portal.wrap_async_context_manager(opened) as deployment:
            yield Site(deployment.url, portal.call(deployment.token), directory)


@pytest.fixture
def executor(site: Site) -> Iterator[OrbitExecutor]:
    with site.executor() as found:
        yield found


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def wait_for_file(path: str) -> str:
    give_up = time.monotonic() + PATIENCE
    while not Path(path).exists() and time.monotonic() < give_up:
        time.sleep(0.01)
    return path


def fail(text: str) -> None:
    raise LookupError(text)


def until(condition: Any) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


# What the documentation of concurrent.futures says of Executor and Future.


def test_submit_returns_a_future_of_the_call(executor: OrbitExecutor) -> None:
    future = executor.submit(pow, 2, 8)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(PATIENCE) == 256
    assert (future.done(), future.running(), future.cancelled()) == (True, False, False)
    assert future.exception() is None


def test_submit_passes_keywords_even_those_of_its_own_names(executor: OrbitExecutor) -> None:
    assert executor.submit(dict, self=1, fn=2).result(PATIENCE) == {"self": 1, "fn": 2}


def test_a_lambda_travels_and_any_value_comes_back(executor: OrbitExecutor) -> None:
    offset = 3
    future = executor.submit(lambda *values: {value + offset: values for value in values}, 1, 2j)
    assert future.result(PATIENCE) == {4: (1, 2j), 3 + 2j: (1, 2j)}


def test_an_exception_comes_back_with_its_remote_traceback(executor: OrbitExecutor) -> None:
    future = executor.submit(fail, "words")
    with pytest.raises(LookupError, match="words") as caught:
        future.result(PATIENCE)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in fail" in str(caught.value.__cause__)
    assert future.exception() is caught.value


def test_the_end_of_its_process_is_an_exception_too(executor: OrbitExecutor) -> None:
    assert isinstance(executor.submit(exit, 3).exception(PATIENCE), SystemExit)


def test_an_exception_that_cannot_be_pickled_is_told_in_words(executor: OrbitExecutor) -> None:
    def raise_it() -> None:
        error = ValueError("odd")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    with pytest.raises(TaskFailed, match="ValueError: odd"):
        executor.submit(raise_it).result(PATIENCE)


def test_a_value_that_cannot_be_unpickled_here_is_told_in_words(executor: OrbitExecutor) -> None:
    def make() -> object:
        reduce = {"__reduce__": lambda self: (int, ("no number",))}
        return type("Trap", (), reduce)()

    with pytest.raises(TaskFailed, match="the result cannot be unpickled here"):
        executor.submit(make).result(PATIENCE)


def test_map_keeps_the_order(executor: OrbitExecutor) -> None:
    assert list(executor.map(pow, range(10), itertools.repeat(2))) == [n**2 for n in range(10)]
    assert list(executor.map(pow, [], [])) == []


@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_map_takes_chunks(executor: OrbitExecutor, chunksize: int) -> None:
    found = executor.map(lambda a, b: (a, b), range(10), "abcdefghij", chunksize=chunksize)
    assert list(found) == list(zip(range(10), "abcdefghij", strict=True))


def test_map_takes_chunks_of_anything(executor: OrbitExecutor) -> None:
    assert list(executor.map(len, [{1}, {1, 2}, set()], chunksize=2)) == [1, 2, 0]


def test_map_raises_what_a_call_raised_in_its_place(executor: OrbitExecutor) -> None:
    results = executor.map(divmod, [1, 1, 1], [1, 0, 1])
    assert next(results) == (1, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_times_out(executor: OrbitExecutor, gate: Path) -> None:
    results = executor.map(wait_for_file, [str(gate)], timeout=0.1)
    with pytest.raises(TimeoutError):
        list(results)
    gate.touch()


def test_map_reads_only_so_far_ahead(executor: OrbitExecutor) -> None:
    read = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    results = executor.map(abs, numbers(), buffersize=5)
    assert next(results) == 0
    assert len(read) <= 7
    assert list(results) == list(range(1, 1000))


@pytest.mark.parametrize("options", [{"chunksize": 0}, {"buffersize": 0}])
def test_map_refuses_nonsense(executor: OrbitExecutor, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        executor.map(abs, [1], **options)  # type: ignore[arg-type]


def test_a_call_that_runs_says_so_and_cannot_be_cancelled(
    executor: OrbitExecutor, gate: Path
) -> None:
    future = executor.submit(wait_for_file, str(gate))
    until(future.running)
    assert not future.cancel()
    with pytest.raises(TimeoutError):
        future.result(timeout=0.05)
    gate.touch()
    assert future.result(PATIENCE) == str(gate)


def test_a_call_that_waits_can_be_cancelled_and_never_runs(site: Site, tmp_path: Path) -> None:
    with site.executor() as executor:
        gates = [tmp_path / f"gate{n}" for n in range(1000)]
        futures = [executor.submit(wait_for_file, str(gate)) for gate in gates]
        until(futures[0].running)
        waiting = futures[-1]
        assert waiting.cancel()
        assert waiting.cancel()
        assert waiting.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            waiting.result()
        for gate in gates:
            gate.touch()
        concurrent.futures.wait(futures, PATIENCE)
        assert all(future.done() for future in futures)


def test_done_callbacks_are_called_with_the_future(executor: OrbitExecutor) -> None:
    heard: concurrent.futures.Future[Any] = concurrent.futures.Future()
    future = executor.submit(abs, -1)
    future.add_done_callback(heard.set_result)
    assert heard.result(PATIENCE) is future


def test_a_callback_may_submit_though_too_much_waits(
    executor: OrbitExecutor, monkeypatch: pytest.MonkeyPatch, gate: Path
) -> None:
    heard: concurrent.futures.Future[Any] = concurrent.futures.Future()
    first = executor.submit(wait_for_file, str(gate))
    first.add_done_callback(lambda _: heard.set_result(executor.submit(abs, -2)))
    monkeypatch.setattr("orbit_rhapsody.channel.UNSENT", 0)
    gate.touch()
    assert heard.result(PATIENCE).result(PATIENCE) == 2


def test_wait_and_as_completed_take_its_futures(executor: OrbitExecutor, gate: Path) -> None:
    slow = executor.submit(wait_for_file, str(gate))
    quick = [executor.submit(abs, -n) for n in range(5)]
    _, waiting = concurrent.futures.wait([slow, *quick], PATIENCE, "FIRST_COMPLETED")
    assert slow in waiting
    found = {future.result() for future in concurrent.futures.as_completed(quick, PATIENCE)}
    assert found == set(range(5))
    gate.touch()
    assert not concurrent.futures.wait([slow, *quick], PATIENCE).not_done


def test_the_results_of_a_closed_executor_are_there(site: Site) -> None:
    with site.executor() as executor:
        futures = [executor.submit(abs, -n) for n in range(100)]
    assert [future.result(0) for future in futures] == list(range(100))


def test_nothing_is_taken_after_shutdown(site: Site) -> None:
    executor = site.executor()
    executor.shutdown()
    executor.shutdown()
    for act in (lambda: executor.submit(abs, 1), lambda: executor.reload(["a"])):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            act()


def test_shutdown_may_leave_calls_to_end_by_themselves(site: Site, gate: Path) -> None:
    executor = site.executor()
    future = executor.submit(wait_for_file, str(gate))
    executor.shutdown(wait=False)
    assert not future.done()
    gate.touch()
    assert future.result(PATIENCE) == str(gate)


def test_shutdown_cancels_what_does_not_run(site: Site, gate: Path) -> None:
    executor = site.executor()
    futures = [executor.submit(wait_for_file, str(gate)) for _ in range(1000)]
    until(futures[0].running)
    timer = threading.Timer(0.1, gate.touch)
    timer.start()
    executor.shutdown(cancel_futures=True)
    timer.join()
    assert all(future.done() for future in futures)
    assert futures[0].result() == str(gate)
    assert futures[-1].cancelled()


def test_asyncio_awaits_its_futures(executor: OrbitExecutor) -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        first = await asyncio.wrap_future(executor.submit(abs, -1))
        return first, await loop.run_in_executor(executor, abs, -2)

    assert asyncio.run(main()) == (1, 2)


# What is its own.


def test_a_function_may_be_named(executor: OrbitExecutor) -> None:
    assert executor.submit("math:sqrt", 9.0).result(PATIENCE) == 3.0
    assert list(executor.map("math:sqrt", [4.0, 9.0], chunksize=2)) == [2.0, 3.0]


def test_a_changed_global_reaches_the_next_call(executor: OrbitExecutor) -> None:
    space: dict[str, Any] = {"factor": 2, "math": math, "__name__": "__main__"}
    exec("def times(x): return x * factor\ndef root(x): return math.sqrt(x)", space)
    assert executor.submit(space["times"], 5).result(PATIENCE) == 10
    space["factor"] = 3
    assert executor.submit(space["times"], 5).result(PATIENCE) == 15
    assert executor.submit(space["root"], 4.0).result(PATIENCE) == 2.0
    assert executor.submit(space["root"], 9.0).result(PATIENCE) == 3.0


def test_one_bad_call_spoils_no_other(executor: OrbitExecutor) -> None:
    futures = [executor.submit("no.such:function" if n == 50 else "math:sqrt", 4.0)
               for n in range(100)]  # fmt: skip
    assert isinstance(futures[50].exception(PATIENCE), UnknownFunction)
    assert sum(future.exception(PATIENCE) is None for future in futures) == 99


def test_what_does_not_pickle_is_told_at_once(executor: OrbitExecutor) -> None:
    with pytest.raises(NotPicklable, match="argument 0 cannot be pickled"):
        executor.submit(abs, threading.Lock())
    with pytest.raises(NotPicklable, match=r"the function .* cannot be pickled"):
        executor.submit(threading.Lock().acquire)
    with pytest.raises(NotPicklable, match="argument 1 cannot be pickled"):
        list(executor.map(abs, [1, threading.Lock()], chunksize=2))


def test_another_python_is_found_before_anything_is_sent(
    executor: OrbitExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor._connection.client, "_python", "3.4")
    for act in (lambda: executor.submit(fail, "x"), lambda: executor.submit("math:sqrt", {1})):
        with pytest.raises(PythonMismatch, match=r"which has Python 3\.4"):
            act()


def test_results_come_back_by_their_uids(site: Site) -> None:
    first = site.executor()
    futures = [first.submit(pow, 2, n) for n in range(10)]
    assert futures[9].result(PATIENCE) == 512
    uids = [future.uid for future in futures]
    with site.executor() as second:
        again = second.reload([*uids, f"{first._connection.client.sid}:none:0"])
        assert [future.result(PATIENCE) for future in again[:10]] == [2**n for n in range(10)]
        assert isinstance(again[10].exception(PATIENCE), UnknownTask)
        assert [future.result(PATIENCE) for future in second.reload(uids[:1])] == [1]
    first.shutdown()


def test_a_submit_waits_while_too_much_waits_to_be_sent(
    executor: OrbitExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_rhapsody.channel.UNSENT", 3)
    monkeypatch.setattr("orbit_rhapsody.channel.BATCH_TASKS", 2)
    futures = [executor.submit(abs, -n) for n in range(200)]
    assert [future.result(PATIENCE) for future in futures] == list(range(200))


def test_the_endpoint_has_its_own_limit_which_is_waited_out(tmp_path: Path) -> None:
    with start_blocking_portal() as portal:
        opened = open_deployment(tmp_path)
        with portal.wrap_async_context_manager(opened) as deployment:
            settings = {"rhapsody": {"pending_limit": 10}}
            targets = ["orbit_rhapsody.plugin:RhapsodyPlugin"]
            node = deployment.endpoint("node7", targets, settings=settings)
            with portal.wrap_async_context_manager(node):
                token = portal.call(deployment.token)
                with OrbitExecutor(deployment.url, "node7", token=token) as executor:
                    futures = [executor.submit(time.sleep, 0.01) for _ in range(10)]
                    futures += [executor.submit(abs, -n) for n in range(10)]
                    concurrent.futures.wait(futures, PATIENCE)
                    assert [future.result() for future in futures[10:]] == list(range(10))


def test_a_session_that_ends_fails_its_futures_and_takes_no_more(site: Site, gate: Path) -> None:
    executor = site.executor()
    future = executor.submit(wait_for_file, str(gate))
    until(future.running)
    client = executor._connection.client
    loop = executor._connection.channel._loop
    asyncio.run_coroutine_threadsafe(client.post(f"unregister_session/{client.sid}"), loop).result()
    assert isinstance(future.exception(PATIENCE), TaskCancelled)
    gate.touch()
    until(lambda: executor._connection.channel._broken is not None)
    with pytest.raises(Exception, match="unknown session id"):
        executor.submit(abs, 1)
    executor.shutdown()


def test_what_cannot_be_reached_is_told_by_the_constructor(site: Site) -> None:
    with pytest.raises(UnknownEndpoint):
        OrbitExecutor(site.url, "nowhere", token=site.token)
    with pytest.raises(UnknownRoute, match="name the endpoint"):
        OrbitExecutor(site.url, token=site.token)
    with pytest.raises(UnknownRoute, match="serves no plugin 'other'"):
        site.executor(plugin="other")


def test_an_endpoint_that_stays_away_is_given_up(tmp_path: Path) -> None:
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        opened = open_deployment(tmp_path, config=BridgeConfig(port=0, plugins=[], grace=0.2))
        deployment = stack.enter_context(portal.wrap_async_context_manager(opened))
        token = portal.call(deployment.token)
        node = deployment.endpoint("node7", ["orbit_rhapsody.plugin:RhapsodyPlugin"])
        with portal.wrap_async_context_manager(node):
            executor = OrbitExecutor(deployment.url, "node7", token=token, patience=0.3)
            future = executor.submit(time.sleep, 2)
            until(future.running)
        assert isinstance(future.exception(PATIENCE), UnknownEndpoint | EndpointLost)
        assert isinstance(executor.submit(abs, 1).exception(PATIENCE), UnknownEndpoint)
        executor.shutdown()


@pytest.mark.anyio
async def test_the_asynchronous_twin_submits_maps_and_cancels(site: Site, gate: Path) -> None:
    async with site.async_executor() as executor:
        assert await (await executor.submit(pow, 2, 8)) == 256
        found = [value async for value in executor.map(abs, range(-9, 0), chunksize=4)]
        assert found == [abs(n) for n in range(-9, 0)]
        with pytest.raises(LookupError) as caught:
            await (await executor.submit(fail, "words"))
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        waiting = await executor.submit(wait_for_file, str(gate))
        assert waiting.cancel()
        (again,) = await executor.reload([(await executor.submit(abs, -1)).uid])
        assert await again == 1
        await executor.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            await executor.submit(abs, 1)
    gate.touch()


@pytest.mark.anyio
async def test_the_asynchronous_twin_leaves_early(site: Site, gate: Path) -> None:
    async with site.async_executor() as executor:
        results = executor.map(wait_for_file, [str(gate)] * 50, buffersize=20)
        with anyio.move_on_after(0.2):
            await anext(results)
        await results.aclose()  # type: ignore[attr-defined]
        await executor.shutdown(wait=False, cancel_futures=True)
    gate.touch()
    with pytest.raises(NotPicklable):
        async with site.async_executor() as executor:
            await executor.submit(wait_for_file, "/nowhere", threading.Lock())
