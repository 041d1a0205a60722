from collections.abc import AsyncIterator
from contextlib import suppress
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_core import Plugin
from orbit_core import plugins as plugins_module
from orbit_core._host import PluginHost, open_host
from orbit_core.errors import ConfigError, InvalidName
from orbit_core.models import HostInfo, HostRole, PluginStatus
from orbit_core.plugins import ROLE_DEFAULTS, installed, select
from tests.faulty_plugins import Bare

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unblocked")]

FAULTY = "tests.faulty_plugins"


def entry(name: str, target: str = f"{FAULTY}:Bare") -> EntryPoint:
    return EntryPoint(name, target, "orbit.plugins")


NAMES = ("psij", "queue_info", "rhapsody", "sysinfo", "system_test", "staging")
AVAILABLE = {name: entry(name) for name in NAMES}


def chosen(*tokens: str, role: HostRole = HostRole.LOGIN) -> list[str]:
    return [item.instance for item in select(tokens, role, AVAILABLE)]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["psij"], ["psij"]),
        (["sysinfo", "psij"], ["sysinfo", "psij"]),
        (["*s*j"], ["psij"]),
        (["sys*"], ["sysinfo", "system_test"]),
        (["s??????"], ["staging", "sysinfo"]),
        (["sysi"], ["sysinfo"]),
        (["ps", "psij", "p*"], ["psij"]),
        (["psij", "all"], ["psij", "queue_info", "rhapsody", "staging", "sysinfo", "system_test"]),
        (["default"], ["psij", "staging", "sysinfo", "queue_info", "system_test"]),
        ([" sysinfo "], ["sysinfo"]),
        (
            ["default", "rhap"],
            ["psij", "staging", "sysinfo", "queue_info", "system_test", "rhapsody"],
        ),
        ([], []),
    ],
    ids=[
        "name", "order", "glob", "glob for two", "question marks", "prefix", "repeats", "all",
        "default", "blanks", "default and more", "nothing",
    ],
)  # fmt: skip
def test_tokens_choose_plugins_in_order_and_once(tokens, expected):
    assert chosen(*tokens) == expected


@pytest.mark.parametrize("role", list(HostRole))
def test_the_default_of_a_role_skips_what_is_not_installed(role):
    expected = [name for name in ROLE_DEFAULTS[role] if name in AVAILABLE]

    assert chosen("default", role=role)[: len(expected)] == expected


@pytest.mark.parametrize("role", list(HostRole))
def test_other_peoples_plugins_are_served_by_default_but_on_the_bridge(role):
    others = [name for name in chosen("default", role=role) if name not in ROLE_DEFAULTS[role]]

    assert others == ([] if role is HostRole.BRIDGE else ["system_test"])


@pytest.mark.parametrize("token", ["nothing", "", "x*", "Psij", "psij2"])
def test_a_token_that_matches_nothing_names_what_there_is(token):
    with pytest.raises(ConfigError) as caught:
        chosen(token)

    assert caught.value.detail == (
        f"plugin selector {token!r} matches nothing; available: psij, queue_info, rhapsody, "
        "staging, sysinfo, system_test"
    )


def test_a_token_says_so_if_nothing_is_installed():
    with pytest.raises(ConfigError, match=r"matches nothing; available: none$"):
        select(["psij"], HostRole.LOGIN, {})


def test_an_ambiguous_prefix_names_its_candidates():
    with pytest.raises(ConfigError) as caught:
        chosen("sys")

    assert caught.value.detail == "plugin selector 'sys' is ambiguous: sysinfo, system_test"


def test_one_plugin_can_be_chosen_under_several_names():
    found = select(["a=psij", "b = ps", "psij"], HostRole.LOGIN, AVAILABLE)

    assert [(item.instance, item.entry.name) for item in found] == [
        ("a", "psij"),
        ("b", "psij"),
        ("psij", "psij"),
    ]


@pytest.mark.parametrize("token", ["a=sys*", "a=all", "a=default"])
def test_another_name_is_for_one_plugin_only(token):
    with pytest.raises(ConfigError) as caught:
        chosen(token)

    count = len(chosen(token.removeprefix("a=")))
    detail = f"plugin selector {token!r} must name one plugin, not {count}"
    assert caught.value.detail == detail


@pytest.mark.parametrize("alias", ["", "../x", "a b", "a=b"])
def test_another_name_must_be_safe(alias):
    with pytest.raises(InvalidName, match=r"^plugin instance .* is not a valid name"):
        chosen(f"{alias}=psij")


def test_one_name_cannot_be_two_plugins():
    with pytest.raises(ConfigError) as caught:
        chosen("a=psij", "a=sysinfo")

    assert caught.value.detail == "plugin instance 'a' cannot be both psij and sysinfo"


@given(tokens=st.lists(st.text(alphabet="psijy*?=_ ./", max_size=8), max_size=3))
def test_any_tokens_choose_plugins_or_are_refused(tokens):
    found: list[str] = []
    with suppress(ConfigError, InvalidName):
        found = chosen(*tokens)

    assert len(set(found)) == len(found)


def distribution(folder: Path, name: str, entry_points: str) -> None:
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[orbit.plugins]\n{entry_points}\n")


def test_installed_plugins_are_found_without_import(tmp_path, monkeypatch):
    distribution(tmp_path, "broken", "broken_one = no_such_module:Plugin")
    monkeypatch.syspath_prepend(tmp_path)

    assert installed()["broken_one"].value == "no_such_module:Plugin"


def test_installed_plugins_can_be_asked_for_by_name(tmp_path, monkeypatch):
    distribution(tmp_path, "thing", f"thing = {FAULTY}:Bare")
    monkeypatch.syspath_prepend(tmp_path)

    assert "thing" in Plugin.get_plugin_names()
    assert Plugin.get_plugin_class("thing") is Bare
    assert Plugin.get_plugin_class("nothing") is None


def test_a_name_that_two_distributions_offer_is_warned_of(tmp_path, monkeypatch, caplog):
    for name in ("second", "first"):
        distribution(tmp_path / name, name, f"twice = {name}:Plugin")
        monkeypatch.syspath_prepend(tmp_path / name)

    assert installed()["twice"].value == "first:Plugin"
    assert "twice is offered twice: first:Plugin hides second:Plugin" in caplog.text


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[PluginHost]:
    async with open_host("node", HostInfo(HostRole.LOGIN), tmp_path) as found, found.running():
        yield found


async def load(host: PluginHost, **targets: str) -> dict[str, PluginStatus]:
    available = {name: entry(name, f"{FAULTY}:{target}") for name, target in targets.items()}
    await host.load(list(available), settings={}, hub=None, available=available)
    return {status.name: status for status in host.plugins.statuses}


@pytest.mark.parametrize(
    "target", ["Bare", "Async", "Generating", "Routeless", "RoutelessAsync", "Newer"]
)
async def test_a_class_with_hooks_is_a_plugin(host, target):
    statuses = await load(host, it=target)

    assert statuses == {"it": PluginStatus("it", "it", "served", "", "")}
    assert host.plugins.served["it"].plugin.instance == "it"


async def test_a_module_is_a_plugin(host):
    available = {"it": entry("it", FAULTY)}

    await host.load(["it"], settings={}, hub=None, available=available)

    assert host.plugins.served["it"].routes[0].path == "/ping"
    assert host.plugins.served["it"].version == ""


@pytest.mark.parametrize("target", ["Declines", "DeclinesAsync", "Unmarked"])
async def test_a_plugin_may_decline_a_host(host, target):
    statuses = await load(host, it=target, other="Bare")

    reason = "declines this host (login)"
    assert statuses["it"] == PluginStatus("it", "it", "disabled", reason)
    assert list(host.plugins.served) == ["other"]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("RaisesWhenMade", "register_routes failed: KeyError: 'made'"),
        ("RaisesInIsEnabled", "is_enabled failed: ValueError: asked"),
        ("RaisesInIsEnabledAsync", "is_enabled failed: ValueError: asked"),
        ("RaisesInRoutes", "register_routes failed: ValueError: routes"),
        ("RaisesInRoutesAsync", "register_routes failed: ValueError: routes"),
        ("Exits", "register_routes failed: SystemExit: 3"),
        (
            "GivesNumber",
            "register_routes failed: TypeError: register_routes returned 42, "
            "which is no list of routes",
        ),
        (
            "GivesText",
            "register_routes failed: TypeError: register_routes returned '/ping', "
            "which is no Starlette route",
        ),
        ("Misspelt", "register_routes failed: its hooks do not fit: unknown hook 'on_topologie_"),
        ("WrongArgument", "is_enabled failed: its hooks do not fit: Plugin 'it' for hook 'notify'"),
        (
            "Hookless",
            "register_routes failed: it has none of the hooks is_enabled, register_routes, "
            "on_topology_change, notify: mark them @hookimpl",
        ),
        (
            "Unhashable",
            "register_routes failed: a Unhashable is not hashable: define it with eq=False",
        ),
        (
            "unhashable_object",
            "is_enabled failed: a Unhashable is not hashable: define it with eq=False",
        ),
        ("BadPage", "register_routes failed: TypeError: Object of type set is not JSON"),
        (
            "NoPage",
            "register_routes failed: TypeError: ui_config is a list, not a UIConfig or a dict",
        ),
        ("Absent", "the entry point does not load: AttributeError: module"),
    ],
)  # fmt: skip
async def test_a_plugin_that_fails_says_where_and_harms_no_other(host, caplog, target, reason):
    statuses = await load(host, it=target, other="Bare")

    assert statuses["it"].state == "failed"
    assert statuses["it"].reason.startswith(reason)
    assert statuses["other"].state == "served"
    assert list(host.plugins.served) == ["other"]
    assert "plugin it is not served" in caplog.text
    is_unforeseen = "Error: " in reason or "Exit: " in reason
    assert ("Traceback" in caplog.text) is is_unforeseen


async def test_settings_for_a_plugin_that_is_not_here_are_warned_of(host, caplog):
    available = {"it": entry("it"), "other": entry("other")}
    settings = {name: {} for name in ("it", "other", "alias", "pisj")}
    await host.load(["it", "alias=it"], settings=settings, hub=None, available=available)
    warned = [record.getMessage() for record in caplog.records]
    assert warned == ["[plugin.pisj] in the configuration is for no plugin that is here"]


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("broken_import", "ModuleNotFoundError: No module named 'a_library_that_nobody_has'"),
        ("exiting_import", "SystemExit: no such machine"),
        ("no_such_module", "ModuleNotFoundError: No module named 'tests.no_such_module'"),
    ],
)
async def test_a_plugin_that_cannot_be_imported_says_why(host, module, reason):
    available = {"it": entry("it", f"tests.{module}:It"), "other": entry("other")}

    await host.load(["all"], settings={}, hub=None, available=available)

    failed = PluginStatus("it", "it", "failed", f"the entry point does not load: {reason}")
    assert host.plugins.statuses == [failed, PluginStatus("other", "other", "served")]


@pytest.mark.parametrize(
    ("target", "gate"), [("Hangs", "register_routes"), ("HangsWhenAsked", "is_enabled")]
)
async def test_a_plugin_that_hangs_is_given_up(host, monkeypatch, target, gate):
    monkeypatch.setattr(plugins_module, "START_TIMEOUT", 0.02)

    statuses = await load(host, it=target, other="Bare")

    assert statuses["it"].reason == f"{gate} failed: it took longer than 0.02 s"
    assert statuses["other"].state == "served"


async def test_what_is_not_selected_is_not_imported_and_says_so(host):
    available = {"it": entry("it", "tests.exiting_import:It"), "other": entry("other")}

    await host.load(["other"], settings={}, hub=None, available=available)

    assert host.plugins.statuses == [
        PluginStatus("other", "other", "served"),
        PluginStatus("it", "it", "not selected", "not in the selection"),
    ]


async def test_two_instances_of_one_type_are_two_plugins(host):
    available = {"bare": entry("bare")}

    await host.load(["bare", "more=bare"], settings={}, hub=None, available=available)

    served = host.plugins.served
    assert {name: found.type for name, found in served.items()} == {"bare": "bare", "more": "bare"}
    assert served["bare"].plugin is not served["more"].plugin
    assert served["more"].plugin.context.instance == "more"


async def test_one_object_cannot_be_two_plugins_and_the_first_stays_whole(host):
    available = {"module": entry("module", FAULTY)}

    await host.load(["module", "more=module"], settings={}, hub=None, available=available)

    reason = "register_routes failed: the same object is served already: only a class has instances"
    assert host.plugins.statuses[1] == PluginStatus("more", "module", "failed", reason)
    assert list(host.plugins._hooks._callers["register_routes"]) == ["module"]


@pytest.mark.parametrize("name", ["a b", "../x", "ü", ""])
async def test_a_plugin_whose_name_is_unsafe_is_not_served(host, name):
    available = {name: entry(name), "other": entry("other")}

    await host.load(["all"], settings={}, hub=None, available=available)

    failed = next(status for status in host.plugins.statuses if status.name == name)
    assert failed.reason.startswith("its name cannot be served: plugin instance ")
    assert list(host.plugins.served) == ["other"]


async def test_a_plugin_says_its_version(host):
    assert (await load(host, it="Versioned"))["it"].version == "7.8"


async def test_a_plugin_without_version_has_its_distributions(host, tmp_path, monkeypatch):
    distribution(tmp_path / "site", "thing", f"thing = {FAULTY}:Bare")
    monkeypatch.syspath_prepend(tmp_path / "site")

    await host.load(["thing"], settings={}, hub=None)

    assert host.plugins.served["thing"].version == "1.5"
