from collections.abc import AsyncIterator, Awaitable
from typing import Any

import anyio
import attrs
import pytest

from orbit_core import _hooks, hookimpl
from orbit_core._hooks import Hooks, open_hooks
from orbit_core.errors import ConfigError
from orbit_core.models import Notification, Topology
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]


@attrs.define(eq=False)
class Listener:
    """Hear notifications and topologies."""

    heard: list[Any] = attrs.field(factory=list)

    @hookimpl
    def notify(self, notification: Notification) -> None:
        self.heard.append(notification.data)

    @hookimpl
    def on_topology_change(self, topology: Topology) -> None:
        self.heard.append(topology)


class AsyncListener(Listener):
    @hookimpl
    async def notify(self, notification: Notification) -> None:
        await anyio.lowlevel.checkpoint()
        self.heard.append(notification.data)


class Failing:
    @hookimpl
    def notify(self, notification: Notification) -> None:
        raise KeyError("failed at once")


class FailingAsync:
    @hookimpl
    async def notify(self, notification: Notification) -> None:
        raise KeyError("failed later")


class Rubbish:
    @hookimpl
    def notify(self, notification: Notification) -> int:
        return 42


class BadWrapper:
    @hookimpl(wrapper=True)
    def notify(self, notification: Notification) -> Any:
        yield
        return 42


class Slow(Listener):
    """Hear each notification only when told to go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = anyio.Event()
        self.begun = 0

    @hookimpl
    async def notify(self, notification: Notification) -> None:
        self.begun += 1
        await self.go.wait()
        self.heard.append(notification.data)


class Promising:
    """Answer with an awaitable that is no coroutine."""

    @hookimpl
    def notify(self, notification: Notification) -> Awaitable[None]:
        return _Promise()


class _Promise:
    def __await__(self) -> Any:
        yield from anyio.lowlevel.checkpoint().__await__()


def news(data: Any) -> Notification:
    return Notification("node", "plugin", "topic", data)


@pytest.fixture
async def hooks() -> AsyncIterator[Hooks]:
    async with open_hooks() as found:
        yield found


async def test_every_plugin_hears_what_happens_in_order(hooks):
    listeners = [Listener(), Listener()]
    for number, listener in enumerate(listeners):
        hooks.add(f"listener{number}", listener)

    hooks.notify(news(1))
    hooks.topology_changed(Topology())
    hooks.notify(news(2))

    assert [listener.heard for listener in listeners] == [[1, Topology(), 2]] * 2


async def test_an_asynchronous_hook_hears_in_order_too(hooks):
    listener = AsyncListener()
    hooks.add("listener", listener)
    for number in range(5):
        hooks.notify(news(number))

    await until(lambda: len(listener.heard) == 5)

    assert listener.heard == list(range(5))


@pytest.mark.parametrize(
    ("faulty", "logged"),
    [
        (Failing, "plugin faulty failed in notify"),
        (FailingAsync, "plugin faulty failed in notify"),
        (BadWrapper, "plugin faulty failed in notify"),
        (Rubbish, ""),
        (Promising, ""),
    ],
    ids=["raises", "raises later", "bad wrapper", "rubbish", "awaitable"],
)
async def test_a_hook_that_fails_harms_no_other_and_hears_on(hooks, caplog, faulty, logged):
    before, after = AsyncListener(), AsyncListener()
    for name, plugin in (("before", before), ("faulty", faulty()), ("after", after)):
        hooks.add(name, plugin)

    for number in range(2):
        hooks.notify(news(number))
    await until(lambda: before.heard == after.heard == [0, 1])
    await anyio.wait_all_tasks_blocked()

    assert [record.getMessage() for record in caplog.records] == [logged] * 2 * bool(logged)


async def test_a_slow_hook_delays_only_itself(hooks):
    slow, quick = Slow(), AsyncListener()
    hooks.add("slow", slow)
    hooks.add("quick", quick)

    for number in range(3):
        hooks.notify(news(number))
    await until(lambda: quick.heard == [0, 1, 2])

    assert (slow.begun, slow.heard) == (1, [])
    slow.go.set()
    await until(lambda: slow.heard == [0, 1, 2])


async def test_a_slow_hook_loses_what_does_not_fit_and_that_is_logged_once(
    hooks, caplog, monkeypatch
):
    monkeypatch.setattr(_hooks, "MAILBOX", 2)
    slow = Slow()
    hooks.add("slow", slow)
    hooks.notify(news("first"))
    await until(lambda: slow.begun == 1)

    for number in range(5):
        hooks.notify(news(number))

    message = "plugin slow is too slow: calls of notify are dropped"
    assert [record.getMessage() for record in caplog.records] == [message]
    slow.go.set()
    await until(lambda: slow.heard == ["first", 0, 1])


async def test_an_overflow_is_logged_again_after_the_hook_caught_up(hooks, caplog, monkeypatch):
    monkeypatch.setattr(_hooks, "MAILBOX", 1)
    slow = Slow()
    hooks.add("slow", slow)
    for begun in (1, 2):
        slow.go = anyio.Event()
        hooks.notify(news("first"))
        await until(lambda begun=begun: slow.begun == begun * 2 - 1)
        for _ in range(3):
            hooks.notify(news("more"))
        slow.go.set()
        await until(lambda begun=begun: len(slow.heard) == begun * 2)
        await anyio.wait_all_tasks_blocked()

    assert len(caplog.records) == 2


async def test_an_awaitable_that_does_not_fit_is_dropped_too(hooks, monkeypatch, caplog):
    monkeypatch.setattr(_hooks, "MAILBOX", 0)
    hooks.add("promising", Promising())

    hooks.notify(news(1))

    assert "plugin promising is too slow" in caplog.text


async def test_what_waits_at_the_end_is_dropped_in_silence(caplog):
    slow, quick = Slow(), Listener()
    async with open_hooks() as hooks:
        hooks.add("slow", slow)
        hooks.add("quick", quick)
        for number in range(3):
            hooks.notify(news(number))
        await until(lambda: slow.begun == 1)

    hooks.notify(news("late"))

    assert (slow.heard, quick.heard) == ([], [0, 1, 2])
    assert caplog.records == []


async def test_a_removed_plugin_hears_no_more(hooks):
    removed, kept = Slow(), Listener()
    hooks.add("removed", removed)
    hooks.add("kept", kept)
    hooks.notify(news(1))

    hooks.remove(removed)
    hooks.remove(removed)
    hooks.notify(news(2))

    assert kept.heard == [1, 2]
    hooks.add("removed", Listener())


@pytest.mark.parametrize(
    ("name", "plugin", "detail"),
    [
        ("taken", Listener(), "the name 'taken' is taken: choose another for this instance"),
        ("other", None, "the same object is served already: only a class has instances"),
    ],
    ids=["name", "object"],
)
async def test_a_plugin_is_added_once(hooks, name, plugin, detail):
    first = Listener()
    hooks.add("taken", first)

    with pytest.raises(ConfigError) as caught:
        hooks.add(name, plugin or first)

    assert caught.value.detail == detail
    hooks.notify(news(1))
    assert first.heard == [1]


async def test_a_plugin_without_the_hook_is_not_called(hooks):
    hooks.add("failing", Failing())

    hooks.topology_changed(Topology())

    assert await hooks.register_routes("failing", None) == []
