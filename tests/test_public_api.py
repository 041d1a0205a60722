import importlib
import inspect
import pkgutil
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

import orbit_core

PUBLIC = [
    "AsyncBridgeClient",
    "AsyncEndpointClient",
    "BridgeClient",
    "Event",
    "HostInfo",
    "HostRole",
    "Notification",
    "OrbitError",
    "Plugin",
    "PluginClient",
    "PluginContext",
    "PluginSession",
    "Topology",
    "UIConfig",
    "hookimpl",
]

PUBLIC_MODULES = [
    "auth",
    "batch",
    "bridge",
    "cli",
    "client",
    "command",
    "config",
    "context",
    "endpoint",
    "error_documents",
    "errors",
    "hookspecs",
    "host_role",
    "models",
    "plugin",
    "plugin_client",
    "plugins",
    "serve",
    "sessions",
    "testing",
    "values",
    "ways",
    "web",
]

MODULES = [importlib.import_module(found.name)
           for found in pkgutil.walk_packages(orbit_core.__path__, "orbit_core.")]  # fmt: skip


def own(module):
    """Return the public classes and functions that a module defines, and their methods."""
    for name, value in vars(module).items():
        here = getattr(value, "__module__", None) == module.__name__
        if name.startswith("_") or not here:
            continue
        if inspect.isclass(value) or inspect.isfunction(value):
            yield name, value
        for inner, member in vars(value).items() if inspect.isclass(value) else ():
            plain = getattr(member, "__func__", getattr(member, "fget", member))
            if not inner.startswith("_") and inspect.isfunction(plain):
                yield f"{name}.{inner}", plain


def test_the_public_names_are_these_and_no_others():
    assert orbit_core.__all__ == PUBLIC
    assert set(dir(orbit_core)) >= set(PUBLIC)


def test_the_public_modules_are_these_and_no_others():
    names = [module.__name__.removeprefix("orbit_core.") for module in MODULES]

    assert [
        name for name in names if not name.startswith(("_", "batch.", "ways."))
    ] == PUBLIC_MODULES


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_can_be_imported(name):
    assert hasattr(orbit_core, name)


def test_another_name_cannot_be_imported():
    with pytest.raises(AttributeError, match="Portal"):
        orbit_core.Portal  # noqa: B018  # the access is the act


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import orbit_core", {"anyio", "attrs", "cattrs", "httpx", "starlette", "websockets"}),
        ("from orbit_core import Plugin, PluginSession, hookimpl", {"httpx", "websockets"}),
        ("from orbit_core import BridgeClient", {"pluggy", "sqlite3", "uvicorn", "websockets"}),
        ("import orbit_core.endpoint", {"httpx", "uvicorn"}),
        ("import orbit_core.bridge", {"httpx"}),
    ],
    ids=["nothing", "plugin", "client", "endpoint", "bridge"],
)
def test_an_import_brings_only_what_it_needs(statement, unwanted):
    code = f"import sys; {statement}; print(*sys.modules, *dir(sys.modules['orbit_core']))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    names = set(done.stdout.split())

    assert done.returncode == 0
    assert not names & unwanted
    assert names >= set(PUBLIC)


def test_plugins_are_served_without_the_http_client():
    code = """
import sys
from importlib.metadata import entry_points
from orbit_core import endpoint
plugins = [entry.load() for entry in entry_points(group="orbit.plugins")]
print(len(plugins), "httpx" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)

    assert done.stdout == f"{len(entry_points(group='orbit.plugins'))} False\n"


@pytest.mark.parametrize("entry", entry_points(group="orbit.clients"), ids=lambda entry: entry.name)
def test_a_client_raises_all_errors_of_its_plugin(entry):
    code = f"""
import pkgutil
from importlib import import_module
from orbit_core.errors import OrbitError
import {entry.module} as client
known = set(OrbitError._by_code)
package = import_module(client.__package__)
for found in pkgutil.walk_packages(package.__path__, client.__package__ + "."):
    if found.name.endswith(("errors", "failures")):
        import_module(found.name)
print(*sorted(set(OrbitError._by_code) - known))
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)

    assert (done.returncode, done.stdout) == (0, "\n")


@pytest.mark.parametrize("module", [orbit_core, *MODULES], ids=lambda module: module.__name__)
def test_a_module_and_its_public_names_have_documentation(module):
    silent = [name for name, value in own(module) if not inspect.getdoc(value)]

    assert module.__doc__
    assert not silent
