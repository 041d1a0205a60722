import time

import pytest

from orbit_core import _child_tokens
from orbit_core._dial import Credentials, dial
from orbit_core.config import Access
from orbit_core.errors import BadRequest, Forbidden, InvalidName, UnknownToken
from orbit_core.models import Role
from orbit_core.testing import ADMIN, open_deployment

from .probe_plugin import PROBE

pytestmark = pytest.mark.anyio


@pytest.fixture
async def deployment(tmp_path):
    async with open_deployment(tmp_path, plugins={"login": [PROBE]}) as found:
        yield found


@pytest.fixture
def hub(deployment):
    """Return what a plugin of the parent reaches the bridge through."""
    return deployment.endpoints["login"].host.plugins.served["probe"].plugin.context.hub


async def mint(hub, name="login.gpu", expires=60.0):
    return await hub.request("POST", "/endpoint/children", {"name": name, "expires": expires})


async def test_an_endpoint_gets_a_token_for_one_child_of_its_owner(deployment, hub):
    before = time.time()

    made = await mint(hub)

    token = deployment.bridge.tokens.find(made["token"])
    assert (token.role, token.owner, token.endpoint) == (Role.ENDPOINT, "alice", "login.gpu")
    assert before + 60 <= token.expires <= time.time() + 60
    assert made["id"] == token.id


@pytest.mark.parametrize("name", ["other.gpu", "login", "loginx.gpu", "gpu"])
async def test_a_name_that_is_not_below_the_parents_is_refused(hub, name):
    with pytest.raises(Forbidden, match=f"a child of 'login' is called login.…, not {name}"):
        await mint(hub, name)


async def test_a_name_that_is_none_is_refused(hub):
    with pytest.raises(InvalidName):
        await mint(hub, "login./x")


@pytest.mark.parametrize("expires", [0.0, -1.0])
async def test_a_token_without_a_life_is_refused(hub, expires):
    with pytest.raises(BadRequest, match="a token expires after a positive number of seconds"):
        await mint(hub, expires=expires)


async def test_a_childs_token_has_a_longest_life(deployment, hub):
    made = await mint(hub, expires=1e12)

    token = deployment.bridge.tokens.get(made["id"])
    assert token.expires <= time.time() + _child_tokens.LONGEST


async def test_a_childs_token_lives_no_longer_than_its_parents(deployment, hub):
    (parent,) = [token for token in deployment.bridge.tokens.list() if token.endpoint == "login"]
    await deployment.bridge.tokens.limit(parent.id, 5.0)

    made = await mint(hub, expires=1000.0)

    assert deployment.bridge.tokens.get(made["id"]).expires <= time.time() + 5.0


async def test_a_second_token_of_one_child_ends_the_first(deployment, hub):
    first = await mint(hub)

    second = await mint(hub)

    tokens = deployment.bridge.tokens
    assert (tokens.find(first["token"]), tokens.find(second["token"]).id) == (None, second["id"])


async def test_a_parent_says_when_the_token_of_its_child_ends(deployment, hub):
    made = await mint(hub, expires=1000.0)

    await hub.request("PATCH", "/endpoint/children/login.gpu", {"expires": 3.0})

    assert deployment.bridge.tokens.get(made["id"]).expires <= time.time() + 3.0


async def test_a_parent_revokes_the_token_of_its_child(deployment, hub):
    made = await mint(hub)

    await hub.request("DELETE", "/endpoint/children/login.gpu")

    assert deployment.bridge.tokens.find(made["token"]) is None


async def test_a_parent_does_not_reach_other_tokens(deployment, hub):
    kept, _ = await deployment.bridge.tokens.create(Role.ENDPOINT, "alice", endpoint="login.own")

    with pytest.raises(UnknownToken, match="has no token of its parent's"):
        await hub.request("DELETE", "/endpoint/children/login.own")
    with pytest.raises(Forbidden):
        await hub.request("PATCH", "/endpoint/children/login", {"expires": 1.0})

    assert deployment.bridge.tokens.get(kept.id) == kept


async def test_nobody_asks_for_a_childs_token_from_outside(deployment):
    async with deployment.client(ADMIN) as client:
        with pytest.raises(Forbidden, match="only an endpoint asks for its children's tokens"):
            await mint(client)


async def test_the_tokens_of_children_end_with_their_parents(deployment, hub):
    made = await mint(hub)
    (parent,) = [token for token in deployment.bridge.tokens.list() if token.endpoint == "login"]

    await deployment.bridge.tokens.revoke(parent.id)

    assert deployment.bridge.tokens.find(made["token"]) is None


async def test_a_child_joins_under_its_own_name_only(deployment, hub):
    access = Access(deployment.url, (await mint(hub))["token"])

    async with dial(access, Credentials("login.gpu", "process", None, 0)):
        assert "login.gpu" in [member.name for member in deployment.bridge.registry.members]
    with pytest.raises(Forbidden, match=r"not 'login\.x'"):
        async with dial(access, Credentials("login.x", "process", None, 0)):
            pass
