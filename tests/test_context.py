import threading

import anyio
import attrs
import pytest

from orbit_core._store import open_store
from orbit_core.context import Notifier, PluginContext
from orbit_core.errors import ConfigError
from orbit_core.models import HostInfo, HostRole, Notification
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]


@pytest.fixture
def heard():
    return []


@pytest.fixture
async def notifier(heard):
    return Notifier("n1", heard.append)


def news(data=0, session=None, plugin="p"):
    return Notification("", plugin, "t", data, session)


def in_a_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


async def test_a_notification_is_stamped_and_delivered_at_once(notifier, heard):
    notifier.publish(news("x"))

    assert [(n.endpoint, n.data, n.seq) for n in heard] == [("n1", "x", 1)]
    assert heard[0].time > 0


async def test_each_session_and_plugin_has_its_own_numbers(notifier, heard):
    for item in (news(), news(session="s"), news(session="s"), news(plugin="q"), news()):
        notifier.publish(item)

    assert [n.seq for n in heard] == [1, 1, 2, 1, 2]


async def test_a_session_that_ended_is_forgotten(notifier, heard):
    notifier.publish(news(session="s"))
    notifier.forget("p", "s")
    notifier.forget("p", "never there")
    notifier.publish(news(session="s"))

    assert [n.seq for n in heard] == [1, 1]


async def test_whoever_hears_a_notification_of_another_thread_may_start_tasks(heard):
    async with anyio.create_task_group() as group:

        async def keep(notification):
            heard.append(notification)

        notifier = Notifier("n1", lambda found: group.start_soon(keep, found))
        in_a_thread(lambda: notifier.publish(news(0)))
        await until(lambda: heard)


async def test_notifications_from_other_threads_arrive_in_order_on_the_loop(heard):
    threads = set()

    def deliver(notification):
        threads.add(threading.get_ident())
        heard.append(notification)

    notifier = Notifier("n1", deliver)
    in_a_thread(lambda: [notifier.publish(news(number)) for number in range(100)])
    assert heard == []
    await until(lambda: len(heard) == 100)

    assert [n.data for n in heard] == list(range(100))
    assert [n.seq for n in heard] == list(range(1, 101))
    assert threads == {threading.get_ident()}


async def test_what_a_listener_publishes_comes_after_what_it_heard(heard):
    def deliver(notification):
        if notification.data == "first":
            notifier.publish(news("answer"))
            assert heard == []
        heard.append(notification)

    notifier = Notifier("n1", deliver)
    notifier.publish(news("first"))

    assert [(n.data, n.seq) for n in heard] == [("first", 1), ("answer", 2)]


async def test_a_listener_that_fails_does_not_stop_the_next_notification(heard):
    def deliver(notification):
        heard.append(notification.data)
        if notification.data == 1:
            raise ZeroDivisionError

    notifier = Notifier("n1", deliver)
    with pytest.raises(ZeroDivisionError):
        notifier.publish(news(1))
    notifier.publish(news(2))

    assert heard == [1, 2]


def test_a_notification_from_a_thread_after_the_end_is_dropped():
    made = []

    async def make():
        made.append(Notifier("n1", made.append))

    anyio.run(make)
    in_a_thread(lambda: made[0].publish(news()))
    assert len(made) == 1


@attrs.frozen
class Settings:
    limit: int = 3


@pytest.fixture
async def context(tmp_path, notifier):
    async with open_store(tmp_path) as store:
        yield PluginContext(
            host=HostInfo(HostRole.STANDALONE),
            endpoint="n1",
            instance="psij2",
            documents=store.space("p"),
            directory=tmp_path,
            notifier=notifier,
            background=lambda function, *args: None,
            on_stop=lambda function: None,
            find_hub=None,
            raw_settings={"limit": 5},
        )


async def test_settings_are_the_plugins_own_section(context):
    assert context.settings(Settings) == Settings(5)


async def test_a_wrong_setting_is_named_with_its_section(context):
    wrong = attrs.evolve(context, raw_settings={"limit": "5"})
    with pytest.raises(ConfigError) as told:
        wrong.settings(Settings)

    assert told.value.detail == "[plugin.psij2]: expected int, got str at limit"


async def test_a_context_notifies_as_its_instance(context, heard):
    context.notify("topic", {"a": 1}, session="s", owner="alice")

    assert heard == [Notification("n1", "psij2", "topic", {"a": 1}, "s", "alice", 1, heard[0].time)]
