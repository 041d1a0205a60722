"""What waits for a change."""

import anyio
import pytest

from orbit_core._change import Change

pytestmark = pytest.mark.anyio


async def test_everybody_who_waits_is_woken_by_the_next_change():
    change, woken = Change(), []

    async def wait(name):
        await change.wait()
        woken.append(name)

    async with anyio.create_task_group() as group:
        group.start_soon(wait, "a")
        group.start_soon(wait, "b")
        await anyio.wait_all_tasks_blocked()
        assert woken == []
        change.tell()
    assert sorted(woken) == ["a", "b"]


async def test_a_change_before_the_wait_is_not_seen():
    change = Change()
    change.tell()

    with anyio.move_on_after(0.01) as patience:
        await change.wait()

    assert patience.cancelled_caught
