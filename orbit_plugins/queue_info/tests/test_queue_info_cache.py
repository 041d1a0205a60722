from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from orbit_queue_info import cache as module
from orbit_queue_info.cache import Cache

from orbit_core.errors import OrbitError, Unavailable

pytestmark = pytest.mark.anyio


class Query:
    """Count how often the scheduler is asked; it answers when it is told to."""

    def __init__(self) -> None:
        self.count = 0
        self.may_answer = anyio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.count += 1
        await self.may_answer.wait()
        if self.error:
            raise self.error
        return self.count


@asynccontextmanager
async def open_cache(ttl: float = 10.0) -> AsyncIterator[tuple[Cache, Query]]:
    async with anyio.create_task_group() as group:
        yield Cache(group.start_soon, ttl), Query()
        group.cancel_scope.cancel()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(module, "_now", lambda: now[0])
    return now


async def test_two_hundred_who_ask_at_once_cost_one_query(clock: list[float]) -> None:
    answers = []
    async with open_cache() as (cache, query):

        async def ask() -> None:
            answers.append((await cache.get("jobs", query)).value)

        async with anyio.create_task_group() as group:
            for _ in range(200):
                group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            query.may_answer.set()
    assert (answers, query.count) == ([1] * 200, 1)


async def test_an_answer_tells_its_age_and_is_good_for_its_time(clock: list[float]) -> None:
    async with open_cache(ttl=60) as (cache, query):
        query.may_answer.set()
        found = []
        for second, force in [(0, False), (9, True), (10, True), (69, False), (70, False)]:
            clock[0] = 1000 + second
            answer = await cache.get("jobs", query, force=force)
            found.append((answer.value, answer.age))
    assert found == [(1, 0), (1, 9), (2, 0), (2, 59), (3, 0)]


async def test_no_setting_makes_queries_more_frequent(clock: list[float]) -> None:
    async with open_cache(ttl=0) as (cache, query):
        query.may_answer.set()
        for second in (0, 5, 9.9):
            clock[0] = 1000 + second
            assert (await cache.get("jobs", query)).value == 1


async def test_kinds_are_asked_for_one_by_one(clock: list[float]) -> None:
    async with open_cache() as (cache, query):
        query.may_answer.set()
        assert (await cache.get("jobs", query)).value == 1
        assert (await cache.get("info", query)).value == 2


async def test_a_failure_is_an_answer_too(clock: list[float]) -> None:
    async with open_cache() as (cache, query):
        query.may_answer.set()
        query.error = Unavailable("the scheduler sleeps")
        for _ in range(2):
            with pytest.raises(Unavailable, match="sleeps"):
                await cache.get("jobs", query)
        assert query.count == 1


async def test_a_surprise_is_logged_and_told_as_an_error(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    async with open_cache() as (cache, query):
        query.may_answer.set()
        query.error = KeyError("surprise")
        with pytest.raises(OrbitError, match="cannot be read"):
            await cache.get("jobs", query)
    assert "surprise" in caplog.text


async def test_a_query_goes_on_when_who_asked_first_leaves(clock: list[float]) -> None:
    async with open_cache() as (cache, query), anyio.create_task_group() as group:
        first = anyio.CancelScope()

        async def ask() -> None:
            with first:
                await cache.get("jobs", query)

        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        first.cancel()
        await anyio.wait_all_tasks_blocked()
        query.may_answer.set()
        assert (await cache.get("jobs", query)).value == 1


async def test_answers_to_many_questions_are_let_go(clock: list[float]) -> None:
    async with open_cache() as (cache, query):
        query.may_answer.set()
        for number in range(module.MANY + 1):
            await cache.get(f"job {number}", query)
        clock[0] += 11
        await cache.get("one more", query)
        assert len(cache._flights) == 1
