"""Child endpoints on this host: real processes, a real bridge, and every way but ssh."""

from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import attrs
import psutil
import pytest
from orbit_psij import PSIJClient

from orbit_core.testing import open_deployment

pytestmark = pytest.mark.anyio

TARGET = "orbit_psij.plugin:PSIJPlugin"
PATIENCE = 60.0
NAME = "login.gpu"


@attrs.define(eq=False)
class Site:
    """Be a bridge with one login endpoint, and a user of it."""

    deployment: object
    login: object
    client: PSIJClient
    directory: Path

    @property
    def folders(self):
        root = self.directory / "endpoints" / "login" / "plugins" / "psij" / "children"
        return [path for path in root.iterdir() if path.is_dir()] if root.exists() else []

    async def spawn(self, name="gpu", tunnel="none", arguments=(), **spec):
        spec = {"arguments": ["--name", name, "--plugins", "", *arguments], **spec}
        return await self.client.submit_tunneled(spec, "local", tunnel)

    async def until(self, condition, name=NAME):
        with anyio.fail_after(PATIENCE):
            while not condition(found := await self.client.tunnel_status(name)):
                await anyio.sleep(0.05)
        return found

    async def until_active(self, name=NAME):
        return await self.until(lambda found: found["status"] == "active" and found["way"], name)

    async def until_clear(self, name=NAME):
        found = await self.until(lambda found: found["status"] in ("done", "failed", "no_tunnel"))
        with anyio.fail_after(PATIENCE):
            while self.folders or self.tokens():
                await anyio.sleep(0.05)
        assert processes(str(self.directory)) == []
        return found

    def tokens(self):
        return [token for token in self.deployment.bridge.tokens.list() if token.voucher]

    def linked(self):
        return [member.name for member in self.deployment.bridge.registry.members]


def processes(*words):
    """Return the command lines of processes in which each word occurs."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if all(word in line for word in words):
            found.append((process.pid, line))
    return found


@asynccontextmanager
async def open_login(deployment, directory, **settings):
    async with (
        deployment.endpoint("login", [TARGET], settings={"psij": settings}) as login,
        deployment.client() as client,
    ):
        found = await client.get_endpoint_client("login").get_plugin(
            "psij", sid="lab", lifetime="persistent"
        )
        yield Site(deployment, login, found, directory)


@asynccontextmanager
async def open_site(directory, **settings):
    async with (
        open_deployment(directory) as deployment,
        open_login(deployment, directory, **settings) as site,
    ):
        try:
            yield site
        finally:
            for child in await site.client.list_children():
                await site.client.stop_child(child["endpoint_name"])


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path) as found:
        yield found


@pytest.mark.parametrize("tunnel", ["none", "relay", "auto"])
async def test_a_child_is_linked_under_its_parents_name_and_leaves_nothing(site, tunnel):
    made = await site.spawn(tunnel=tunnel)
    assert made["endpoint_name"] == NAME

    found = await site.until_active()

    way = {"none": "direct", "relay": "relay", "auto": "direct"}[tunnel]
    assert (found["status"], found["way"], found["reason"]) == ("active", way, None)
    assert sorted(site.linked()) == ["login", NAME]
    (token,) = site.tokens()
    assert token.endpoint == NAME

    await site.client.stop_child("gpu")

    assert (await site.until_clear())["status"] == "done"
    assert site.linked() == ["login"]
