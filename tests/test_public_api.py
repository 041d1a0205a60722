import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys

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
    with pytest.raises(AttributeError, match=r"^module 'orbit_core' has no attribute 'Portal'$"):
        orbit_core.Portal  # noqa: B018  # the access is the act


def test_a_name_comes_from_where_a_type_checker_finds_it():
    tree = ast.parse(inspect.getsource(orbit_core))
    imported = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }

    assert imported == orbit_core._MODULES
    assert sorted(imported) == PUBLIC


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import orbit_core", {"anyio", "attrs", "cattrs", "httpx", "starlette", "websockets"}),
        ("from orbit_core import Plugin, PluginSession, hookimpl", {"httpx", "websockets"}),
        ("from orbit_core import BridgeClient", {"pluggy", "sqlite3", "uvicorn", "websockets"}),
        ("import orbit_core.endpoint", {"httpcore", "uvicorn"}),
        ("import orbit_core.bridge", {"httpcore"}),
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


@pytest.mark.parametrize("module", [orbit_core, *MODULES], ids=lambda module: module.__name__)
def test_a_module_and_its_public_names_have_documentation(module):
    silent = [name for name, value in own(module) if not inspect.getdoc(value)]

    assert module.__doc__
    assert not silent
