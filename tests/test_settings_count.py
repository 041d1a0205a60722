"""Check that no setting is without effect: the core asks for each one that it offers."""

import attrs
import pytest

from orbit_core.bridge import open_bridge
from orbit_core.config import BridgeConfig, ClientConfig, EndpointConfig, resolve_access
from orbit_core.endpoint import open_endpoint
from orbit_core.models import HostInfo, HostRole

pytestmark = pytest.mark.anyio

LOGGED = {"log_level", "log_format"}
TUNNELLED = {"tunnel", "tunnel_via"}
"""Settings of a process, which `orbit-serve` reads and its tests try."""


def watched(kind, **settings):
    """Return a configuration, and the set of the settings that were asked for."""
    asked = set()

    class Watched(kind):
        def __getattribute__(self, name):
            asked.add(name)
            return super().__getattribute__(name)

    config = Watched(**settings)
    asked.clear()
    return config, asked


def settings_of(kind):
    return {field.name for field in attrs.fields(kind)}


async def test_every_setting_of_a_bridge_counts(tmp_path):
    config, asked = watched(
        BridgeConfig, host="0.0.0.0", port=0, plugins=[], insecure=True, state_dir=tmp_path
    )
    async with open_bridge(config):
        pass

    assert settings_of(BridgeConfig) - asked == LOGGED


async def test_every_setting_of_an_endpoint_counts(tmp_path):
    config, asked = watched(
        EndpointConfig, name="node", url="http://127.0.0.1:9", plugins=[], state_dir=tmp_path
    )
    async with open_endpoint(config, HostInfo(HostRole.STANDALONE)):
        pass

    assert settings_of(EndpointConfig) - asked == LOGGED | TUNNELLED


def test_every_setting_of_a_client_counts():
    config, asked = watched(ClientConfig, url="http://bridge")
    resolve_access(file=config)

    assert settings_of(ClientConfig) <= asked
