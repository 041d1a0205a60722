import importlib
import inspect
import pkgutil

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


def test_the_public_modules_are_these_and_no_others():
    names = [module.__name__.removeprefix("orbit_core.") for module in MODULES]

    assert [name for name in names if not name.startswith(("_", "batch."))] == PUBLIC_MODULES


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_can_be_imported(name):
    assert hasattr(orbit_core, name)


@pytest.mark.parametrize("module", [orbit_core, *MODULES], ids=lambda module: module.__name__)
def test_a_module_and_its_public_names_have_documentation(module):
    silent = [name for name, value in own(module) if not inspect.getdoc(value)]

    assert module.__doc__
    assert not silent
