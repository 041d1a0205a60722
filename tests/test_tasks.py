import anyio
import pytest

from orbit_core._tasks import LightTasks, open_tasks

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]


async def fail(kind):
    raise kind


async def run(*failures, body=None):
    with anyio.fail_after(10):
        async with open_tasks() as group:
            for failure in failures:
                group.start_soon(fail, failure)
            if body is not None:
                raise body
            await anyio.sleep_forever()


async def test_leaving_cancels_what_still_runs():
    with anyio.fail_after(10):
        async with open_tasks() as group:
            group.start_soon(anyio.sleep_forever)


async def test_a_failure_of_the_body_comes_out_as_itself():
    with pytest.raises(KeyError):
        await run(body=KeyError())


async def test_a_failure_of_a_task_ends_the_body_and_comes_out_as_itself():
    with pytest.raises(KeyError):
        await run(KeyError())


async def test_several_failures_come_out_together():
    with pytest.raises(ExceptionGroup) as told:
        await run(KeyError(), ValueError())

    assert {type(error) for error in told.value.exceptions} == {KeyError, ValueError}


async def test_light_tasks_end_with_their_context():
    ended = []

    async def last():
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")

    async def short():
        ended.append("done")

    async with LightTasks() as tasks:
        tasks.start_soon(last)
        tasks.start_soon(short)
        await anyio.wait_all_tasks_blocked()

    assert ended == ["done", "cancelled"]
