from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import attrs
import httpx
import pytest

from orbit_core import OrbitError, hookimpl
from orbit_core import _host as host_module
from orbit_core._host import PluginHost, open_host
from orbit_core.errors import ConfigError
from orbit_core.models import HostInfo, HostRole, Notification, PluginInfo
from orbit_core.testing import ALICE, Recorder
from tests.notes_plugin import NotesPlugin
from tests.test_plugins import entry
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]

NOTES = "tests.notes_plugin:NotesPlugin"
LOGIN = HostInfo(HostRole.LOGIN, "slurm")
AVAILABLE = {
    "notes": entry("notes", NOTES),
    "bare": entry("bare"),
    "module": entry("module", "tests.faulty_plugins"),
    "faulty": entry("faulty", "tests.faulty_plugins:RaisesInRoutes"),
    "busy": entry("busy", "tests.test_host:Busy"),
}


@attrs.frozen
class BusySettings:
    queue: str = "normal"
    limit: int = 3


class Busy:
    """Work in the background, and take part in the end of its host."""

    def __init__(self, context: Any, instance: str) -> None:
        self.context = context
        self.settings = context.settings(BusySettings)
        self.steps: list[str] = []

    @hookimpl
    def register_routes(self, context: Any) -> None:
        context.background(self.work, "work")
        context.background(self.fail)
        context.on_stop(self.stop)
        context.on_stop(self.fail)

    async def work(self, step: str) -> None:
        self.steps.append(step)
        try:
            await anyio.sleep_forever()
        finally:
            self.steps.append("cancelled")

    async def fail(self) -> None:
        self.steps.append("fail")
        raise OrbitError("broken on purpose")

    async def stop(self) -> None:
        await self.context.documents.put("last", "words")
        self.steps.append("stop")


class Dawdler:
    """Never let go."""

    def __init__(self, context: Any, instance: str) -> None:
        self.steps: list[str] = []

    @hookimpl
    def register_routes(self, context: Any) -> None:
        context.on_stop(self.stop)
        context.on_stop(self.dawdle)

    async def dawdle(self) -> None:
        self.steps.append("dawdle")
        await anyio.sleep_forever()

    async def stop(self) -> None:
        self.steps.append("stop")


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[PluginHost]:
    async with open_host("node", LOGIN, tmp_path) as found, found.running():
        yield found


async def load(host: PluginHost, *selectors: str, **settings: dict[str, Any]) -> None:
    await host.load(selectors, settings=settings, hub=lambda: "the hub", available=AVAILABLE)


async def ask(host: PluginHost, path: str, method: str = "GET") -> httpx.Response:
    site = host.site()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await site({**scope, "orbit.principal": ALICE}, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
        return await http.request(method, f"http://node{path}")


async def test_plugins_are_served_under_their_instance_names(host):
    await load(host, "notes", "more=notes", "bare")

    assert (await ask(host, "/notes/version")).json() == {"version": "3.2.1"}
    assert (await ask(host, "/more/health")).json()["plugin"] == "more"
    assert (await ask(host, "/bare/ping")).json() == "pong"


@pytest.mark.parametrize(
    "path", ["/", "/notes", "/notes/", "/notes/version/", "/other/version", "/plugins/"]
)
async def test_what_is_not_served_is_no_redirect(host, path):
    await load(host, "notes")

    reply = await ask(host, path)

    assert (reply.status_code, reply.json()["code"]) == (404, "unknown_route")


async def test_instances_of_one_type_share_nothing(host):
    await load(host, "notes", "more=notes")

    await ask(host, "/notes/register_session", "POST")

    assert (await ask(host, "/notes/health")).json()["active_sessions"] == 1
    assert (await ask(host, "/more/health")).json()["active_sessions"] == 0


async def test_the_topology_is_told_of_each_plugin_in_short(host):
    await load(host, "notes", "faulty")

    assert host.short_descriptions() == {"notes": PluginInfo("notes", "/node/notes", "3.2.1")}


async def test_the_description_has_routes_pages_and_what_is_not_served(host):
    await load(host, "notes", "module", "faulty")

    document = (await ask(host, "/plugins")).json()

    notes, module = document["plugins"]["notes"], document["plugins"]["module"]
    assert notes["namespace"] == "/node/notes"
    assert notes["ui_config"]["title"] == "Notes"
    (add,) = [route for route in notes["routes"] if route["path"] == "/add/{sid}"]
    assert (add["methods"], add["summary"], add["body"]) == (["POST"], "Add a note.", None)
    assert add["answer"]["type"] == "object"
    assert module["ui_config"]["title"] == "module"
    assert [(status["name"], status["state"]) for status in document["statuses"]] == [
        ("notes", "served"),
        ("module", "served"),
        ("faulty", "failed"),
        ("bare", "not selected"),
        ("busy", "not selected"),
    ]


async def test_a_reserved_instance_name_is_refused(host):
    with pytest.raises(ConfigError, match=r"^no plugin instance may be called 'plugins'$"):
        await load(host, "plugins=notes")


async def test_a_context_lends_what_the_host_has(host, tmp_path):
    await load(host, "notes")
    context = host.plugins.served["notes"].plugin.context

    assert (context.host, context.endpoint, context.instance) == (LOGIN, "node", "notes")
    assert context.hub == "the hub"
    assert context.directory == tmp_path / "plugins" / "notes"
    assert context.directory.stat().st_mode & 0o777 == 0o700


async def test_a_plugin_gets_its_own_settings(host):
    await load(host, "busy", busy={"queue": "debug"}, notes={"queue": 1})

    assert host.plugins.served["busy"].plugin.settings == BusySettings("debug", 3)


@pytest.mark.parametrize(
    ("own", "fault"),
    [
        ({"limit": "3"}, "expected int, got str at limit"),
        ({"queues": []}, "unknown: queues"),
    ],
    ids=["wrong type", "unknown"],
)
async def test_bad_settings_keep_a_plugin_from_being_served(host, own, fault):
    await load(host, "busy", busy=own)

    reason = f"register_routes failed: [plugin.busy]: {fault}"
    assert host.plugins.statuses[0].reason == reason


async def test_a_host_ends_in_order_whatever_its_plugins_do(tmp_path, caplog):
    async with open_host("node", LOGIN, tmp_path) as host, host.running():
        await load(host, "busy", "notes")
        plugin = host.plugins.served["busy"].plugin
        await until(lambda: len(plugin.steps) == 2)

    assert plugin.steps == ["work", "fail", "fail", "stop", "cancelled"]
    messages = [record.getMessage() for record in caplog.records]
    assert messages.count("plugin busy failed in the background") == 2
    async with open_host("node", LOGIN, tmp_path) as host:
        assert await host.store.space("plugin/busy").get("last") == "words"


async def test_a_plugin_that_does_not_let_go_keeps_no_other_from_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(host_module, "STOP_TIMEOUT", 0.02)
    async with open_host("node", LOGIN, tmp_path) as host, host.running():
        available = {"dawdler": entry("dawdler", "tests.test_host:Dawdler")}
        await host.load(["dawdler"], settings={}, hub=None, available=available)
        plugin = host.plugins.served["dawdler"].plugin

    assert plugin.steps == ["dawdle", "stop"]
    assert caplog.messages == ["plugin dawdler did not let go within 0 s"]


async def test_a_host_that_is_cancelled_still_lets_its_plugins_write(tmp_path):
    with anyio.CancelScope() as scope:
        async with open_host("node", LOGIN, tmp_path) as host, host.running():
            await load(host, "busy")
            scope.cancel()

    async with open_host("node", LOGIN, tmp_path) as host:
        assert await host.store.space("plugin/busy").get("last") == "words"


async def test_a_fault_of_who_opens_a_host_comes_out_as_itself(tmp_path):
    with pytest.raises(ConfigError, match=r"^plugin selector 'nothing' matches nothing"):
        async with open_host("node", LOGIN, tmp_path) as host, host.running():
            await load(host, "nothing")


async def test_the_hosts_own_notifications_are_stamped_and_heard(host):
    recorder = Recorder()
    host.hooks.add("(recorder)", recorder)

    host.publish(Notification("", "(host)", "began", 1))

    heard = recorder.heard[0]
    assert (heard.endpoint, heard.seq, heard.data) == ("node", 1, 1)
    assert heard.time > 0


async def test_notifications_from_a_thread_are_heard_on_the_loop(host):
    recorder = Recorder()
    host.hooks.add("(recorder)", recorder)
    await load(host, "notes")
    plugin: NotesPlugin = host.plugins.served["notes"].plugin

    def shout() -> None:
        for number in range(100):
            plugin.context.notify("n", number, session="s")

    await anyio.to_thread.run_sync(shout)
    await until(lambda: len(recorder.heard) == 100)

    assert [(found.data, found.seq) for found in recorder.heard] == [
        (number, number + 1) for number in range(100)
    ]


async def test_plugins_installed_are_loaded_if_nobody_names_them(host):
    await host.load([], settings={}, hub=None)

    assert host.plugins.served == {}
