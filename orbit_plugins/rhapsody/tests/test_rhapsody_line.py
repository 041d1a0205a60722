import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from orbit_rhapsody import AsyncOrbitExecutor, RhapsodyClient, line
from orbit_rhapsody.packing import pack_batch, pack_task
from orbit_rhapsody.values import pack

from orbit_core.errors import InvalidBody
from orbit_core.testing import Deployment, open_deployment

pytestmark = pytest.mark.anyio

PATIENCE = 30.0
Submits = AsyncIterator[bytes]
Note = Callable[[int], int]


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    plugins = {"node7": ["orbit_rhapsody.plugin:RhapsodyPlugin"]}
    async with open_deployment(tmp_path, plugins=plugins) as found:
        yield found


@pytest.fixture
async def rhapsody(deployment: Deployment) -> AsyncIterator[RhapsodyClient]:
    async with deployment.client() as client:
        found = client.get_endpoint_client("node7").get_plugin("rhapsody", backends=["concurrent"])
        yield await found


@pytest.fixture
async def executor(deployment: Deployment) -> AsyncIterator[AsyncOrbitExecutor]:
    token = await deployment.token()
    async with AsyncOrbitExecutor(deployment.url, "node7", token=token) as found:
        yield found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def note(log: Path) -> Note:
    """Return a function that leaves its argument in the log where it is called."""
    path = str(log)

    def write(number: int) -> int:
        with open(path, "a") as sink:
            sink.write(f"{number}\n")
        return number

    return write


def submit(key: str, uid: str) -> bytes:
    task = pack_task({"uid": uid, "function": "math:sqrt", "args": [4.0]})
    return pack([key, pack_batch([task])])


def values(news: list[dict[str, Any]]) -> dict[str, Any]:
    return {found["uid"]: found["return_value"] for found in news if "seq" in found}


async def test_each_submit_of_one_request_is_accepted_or_declined(rhapsody: RhapsodyClient) -> None:
    news: list[dict[str, Any]] = []
    more = anyio.Event()

    async def submits() -> Submits:
        whole = submit("first", "a") + submit("second", "b")
        yield whole[:20]
        yield whole[20:]
        await more.wait()
        yield submit("third", "a")

    async def follow() -> None:
        async for found in rhapsody.results():
            news.append(found)
            keys = [found["accepted"] for found in news if "accepted" in found]
            if {"first", "second"} <= set(keys):
                more.set()
            if any("declined" in found for found in news) and len(values(news)) == 2:
                return

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            await anyio.sleep(0.1)
            await rhapsody.feed(submits())
    assert {"declined": "third"} in news
    assert values(news) == {"a": 2.0, "b": 2.0}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\xc1", "this is no msgpack"),
        (pack("key"), "must be pairs"),
        (pack(["key"]), "must be pairs"),
        (pack(["key", b"", b""]), "more than is taken"),
        (b"\xdd\x00\x04\x00\x00" * 1000, "more than is taken"),
        (pack({"key": b""}), "more than is taken"),
        (pack([1, b""]), "must be pairs"),
        (pack(["key", "text"]), "must be pairs"),
        (pack(["k" * 65, b""]), "more than is taken"),
        (pack(["key", bytes(300_000)]), "more than is taken"),
    ],
    ids=["rubbish", "text", "one", "three", "nested", "map", "number", "body", "key", "large"],
)
async def test_what_is_no_submit_ends_the_request(
    rhapsody: RhapsodyClient, body: bytes, words: str
) -> None:
    async def submits() -> Submits:
        yield body

    with pytest.raises(InvalidBody, match=words):
        await rhapsody.feed(submits())


async def test_many_submits_that_are_refused_leave_time_for_others(
    rhapsody: RhapsodyClient,
) -> None:
    refused = pack(["", b""])
    turns = 0

    async def submits() -> Submits:
        yield refused * 50_000

    async def turn() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as group:
        group.start_soon(turn)
        await rhapsody.feed(submits())
        group.cancel_scope.cancel()
    assert turns > 50_000


async def test_large_submits_may_come_close_together(rhapsody: RhapsodyClient) -> None:
    async def submits() -> Submits:
        for number in range(5):
            yield pack([str(number), bytes(200_000)])

    await rhapsody.feed(submits())


async def test_calls_one_by_one_go_in_one_request_until_none_comes_for_a_while(
    executor: AsyncOrbitExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[int] = []
    feed = RhapsodyClient.feed

    async def counted(self: RhapsodyClient, submits: Submits) -> None:
        requests.append(0)
        await feed(self, submits)
        requests[-1] = 1

    monkeypatch.setattr(RhapsodyClient, "feed", counted)
    monkeypatch.setattr(line, "IDLE", 0.5)
    with anyio.fail_after(PATIENCE):
        for _ in range(10):
            assert await (await executor.submit(math.sqrt, 4.0)) == 2.0
        assert requests == [0]
        while requests == [0]:
            await anyio.sleep(0.01)
        assert await (await executor.submit(math.sqrt, 4.0)) == 2.0
    assert requests == [1, 0]


async def test_what_a_proxy_holds_back_goes_by_requests_of_its_own(
    executor: AsyncOrbitExecutor, monkeypatch: pytest.MonkeyPatch, note: Note, log: Path
) -> None:
    requests: list[Submits] = []

    async def hold(self: RhapsodyClient, submits: Submits) -> None:
        requests.append(submits)
        async for _ in submits:
            pass

    monkeypatch.setattr(RhapsodyClient, "feed", hold)
    monkeypatch.setattr(line, "PATIENCE", 0.2)
    with anyio.fail_after(PATIENCE):
        for number in range(5):
            assert await (await executor.submit(note, number)) == number
        await executor.flush()
    assert await anyio.Path(log).read_text() == "".join(f"{number}\n" for number in range(5))
    assert len(requests) == 1


async def test_a_call_that_is_refused_says_why(executor: AsyncOrbitExecutor) -> None:
    with anyio.fail_after(PATIENCE):
        assert await (await executor.submit(math.sqrt, 4.0)) == 2.0
        future = await executor.submit("math:no_such_function")
        with pytest.raises(Exception, match="no_such_function"):
            await future


async def test_a_request_that_breaks_loses_and_repeats_nothing(
    executor: AsyncOrbitExecutor, monkeypatch: pytest.MonkeyPatch, note: Note, log: Path
) -> None:
    feed = RhapsodyClient.feed

    async def cut(self: RhapsodyClient, submits: Submits) -> None:
        """End in the middle of things: what was sent may or may not have arrived."""
        with anyio.move_on_after(0.02):
            await feed(self, submits)
        raise line.OrbitError("the connection broke")

    monkeypatch.setattr(RhapsodyClient, "feed", cut)
    monkeypatch.setattr(line, "REST", 0.0)
    with anyio.fail_after(PATIENCE):
        for number in range(100):
            assert await (await executor.submit(note, number)) == number
    assert await anyio.Path(log).read_text() == "".join(f"{number}\n" for number in range(100))


async def test_a_fault_below_loses_no_call(
    executor: AsyncOrbitExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: RhapsodyClient, submits: Submits) -> None:
        async for _ in submits:
            raise httpx.StreamConsumed

    monkeypatch.setattr(RhapsodyClient, "feed", fail)
    monkeypatch.setattr(line, "REST", 0.0)
    with anyio.fail_after(PATIENCE):
        for _ in range(3):
            assert await (await executor.submit(math.sqrt, 4.0)) == 2.0
