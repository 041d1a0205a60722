from contextlib import AsyncExitStack

import httpx
import pytest
from starlette.routing import Route
from websockets.exceptions import InvalidStatus

from orbit_core.models import Principal, Role
from orbit_core.testing import ADMIN, ALICE, BOB, open_deployment
from tests.joining import handshake

# PSI/J leaves the pipe of a local job to the garbage collector.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedReader:ResourceWarning"),
]

NOTES = "tests.notes_plugin:NotesPlugin"
PSIJ = "orbit_psij.plugin:PSIJPlugin"
SYSINFO = "orbit_sysinfo.plugin:SysInfoPlugin"

# What each caller hears from each route. Alice owns both endpoints, of which `open` is shared, and
# the session and the job that a path names; no endpoint is called as `{name}` says. The codes are
# `unauthorized`, `forbidden` and `unknown_route` where no other is named; `*` is each plugin.
TABLE = """
ROUTE                                             nobody wrong revoked endpoint alice bob  admin
GET    /                                          200    200   200     200      200   200  200
GET    /health                                    200    200   200     200      200   200  200
GET    /ready                                     200    200   200     200      200   200  200
GET    /auth                                      401    401   401     403      200   200  200
POST   /auth                                      401    401   401     403      200   200  200
DELETE /auth                                      401    401   401     403      200   200  200
GET    /endpoints                                 401    401   401     403      200   200  200
POST   /endpoint/list                             401    401   401     403      200   200  200
POST   /endpoint/disconnect/{name}                401    401   401     403      403   403  404:unknown_endpoint
POST   /endpoint/children                         401    401   401     403      403   403  403
PATCH  /endpoint/children/{name}                  401    401   401     403      403   403  403
DELETE /endpoint/children/{name}                  401    401   401     403      403   403  403
GET    /events                                    401    401   401     403      200   200  200
GET    /plugins                                   401    401   401     403      200   200  200
GET    /tokens                                    401    401   401     403      403   403  200
POST   /tokens                                    401    401   401     403      403   403  200
DELETE /tokens/{id}                               401    401   401     403      403   403  200
GET    /metrics                                   401    401   401     403      200   200  200
GET    /openapi.json                              401    401   401     403      200   200  200
GET    /bridge/plugins                            401    401   401     403      200   200  200
POST   /bridge/terminate                          401    401   401     403      403   403  200
SOCKET /register                                  401    401   401     101      403   403  101

GET    /node/plugins                              401    401   401     403      200   403  200
POST   /node/notes/register_session               401    401   401     403      200   403  200
POST   /node/notes/unregister_session/{sid}       401    401   401     403      200   403  200
GET    /node/notes/list_sessions                  401    401   401     403      200   403  200
GET    /node/notes/version                        401    401   401     403      200   403  200
GET    /node/notes/health                         401    401   401     403      200   403  200
GET    /node/notes/ui_config                      401    401   401     403      200   403  200
GET    /node/notes/ui_module                      401    401   401     403      404   403  404
POST   /node/notes/add/{sid}                      401    401   401     403      200   403  200
GET    /node/notes/notes/{sid}                    401    401   401     403      200   403  200

GET    /open/plugins                              401    401   401     403      200   200  200
POST   /open/*/register_session                   401    401   401     403      200   200  200
POST   /open/*/unregister_session/{sid}           401    401   401     403      200   403  200
GET    /open/*/list_sessions                      401    401   401     403      200   200  200
GET    /open/*/version                            401    401   401     403      200   200  200
GET    /open/*/health                             401    401   401     403      200   200  200
GET    /open/*/ui_config                          401    401   401     403      200   200  200
GET    /open/*/ui_module                          401    401   401     403      404   404  404
POST   /open/psij/submit/{sid}                    401    401   401     403      200   403  200
GET    /open/psij/status/{sid}/{job_id}           401    401   401     403      200   403  200
GET    /open/psij/list_jobs/{sid}                 401    401   401     403      200   403  200
POST   /open/psij/cancel/{sid}/{job_id}           401    401   401     403      200   403  200
GET    /open/psij/output/{sid}/{job_id}           401    401   401     403      200   403  200
GET    /open/psij/executors                       401    401   401     403      200   200  200
POST   /open/psij/submit_tunneled/{sid}           401    401   401     403      200   403  200
GET    /open/psij/tunnel_status/{endpoint_name}   401    401   401     403      200   200  200
GET    /open/psij/children                        401    401   401     403      200   200  200
POST   /open/psij/stop_child/{endpoint_name}      401    401   401     403      404:unknown_child 404:unknown_child 404:unknown_child

GET    /open/sysinfo/homedir                      401    401   401     403      200   200  200
GET    /open/sysinfo/host_role                    401    401   401     403      200   200  200
GET    /open/sysinfo/metrics/{sid}                401    401   401     403      200   403  200
GET    /open/sysinfo/metrics/stream               401    401   401     403      200   200  200
"""  # noqa: E501

BODIES = {
    "/tokens": {"role": "client", "owner": "carol"},
    "/node/notes/add/{sid}": {"text": "hello"},
    "/open/psij/submit/{sid}": {"job_spec": {"executable": "/bin/true"}},
    "/open/psij/submit_tunneled/{sid}": {
        "job_spec": {"executable": "/bin/true", "arguments": ["--name", "child"]}
    },
}
CODES = {"401": "401:unauthorized", "403": "403:forbidden", "404": "404:unknown_route"}

_, *CALLERS = TABLE.split("\n")[1].split()
EXPECTED = {
    (method, path.replace("*", plugin)): dict(
        zip(CALLERS, (CODES.get(cell, cell) for cell in cells), strict=True)
    )
    for method, path, *cells in (line.split() for line in TABLE.split("\n")[2:] if line)
    for plugin in ("psij", "sysinfo")
}


class Site:
    """Ask a deployment as each of the callers."""

    def __init__(self, deployment, alice):
        self.deployment = deployment
        self.alice = alice
        self.addresses = 0

    async def token(self, caller):
        tokens = self.deployment.bridge.tokens
        if caller == "revoked":
            token, text = await tokens.create(Role.ADMIN, "root")
            await tokens.revoke(token.id)
            return text
        if caller in ("nobody", "wrong"):
            return {"wrong": "orbit_wrong"}.get(caller)
        known = {"alice": ALICE, "bob": BOB, "admin": ADMIN}
        return await self.deployment.token(known.get(caller, Principal("alice", Role.ENDPOINT)))

    async def answer(self, caller, method, path):
        token = await self.token(caller)
        if method == "SOCKET":
            return await self.join(token)
        async with (
            self.client(token) as client,
            client.stream(method, await self.fill(path), json=BODIES.get(path)) as reply,
        ):
            return await cell_of(reply)

    def client(self, token):
        """Return a client with an address of its own: many wrong tokens from one are 429."""
        self.addresses += 1
        transport = httpx.AsyncHTTPTransport(
            verify=False, local_address=f"127.0.1.{self.addresses}"
        )
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(base_url=self.deployment.url, transport=transport, headers=headers)

    async def join(self, token):
        try:
            async with handshake(self.deployment, token):
                return "101"
        except InvalidStatus as error:
            return CODES[str(error.response.status_code)]

    async def fill(self, path):
        """Return a path of which every parameter is a new thing."""
        found = {"name": "nobody", "endpoint_name": "nobody"}
        if "{id}" in path:
            token, _ = await self.deployment.bridge.tokens.create(Role.CLIENT, "carol")
            found["id"] = token.id
        if "{sid}" in path:
            plugin = "/".join(path.split("/")[:3])
            reply = await self.alice.request("POST", f"{plugin}/register_session")
            found["sid"] = reply["sid"]
        if "{job_id}" in path:
            submit = "/open/psij/submit/{sid}"
            reply = await self.alice.request("POST", submit.format(**found), BODIES[submit])
            found["job_id"] = reply["job_id"]
        return path.format(**found)


async def cell_of(reply):
    if reply.status_code < 400:
        return str(reply.status_code)
    await reply.aread()
    document = reply.json()
    assert sorted(document) == ["code", "detail", "error", "status_code"]
    return f"{document['status_code']}:{document['code']}"


@pytest.fixture
async def site(tmp_path):
    async with open_deployment(tmp_path) as deployment, AsyncExitStack() as stack:
        for name, plugins, shared in (("node", [NOTES], False), ("open", [PSIJ, SYSINFO], True)):
            await stack.enter_async_context(deployment.endpoint(name, plugins, shared=shared))
        yield Site(deployment, await stack.enter_async_context(deployment.client()))


async def described(site):
    async with site.client(await site.token("admin")) as admin:
        paths = (await admin.get("/openapi.json")).json()["paths"]
    return {(method.upper(), path) for path, item in paths.items() for method in item}


def served(routes, prefix=""):
    found = set()
    for route in routes:
        if isinstance(route, Route):
            methods = route.methods - {"HEAD"}
            found |= {(method, prefix + route.path) for method in methods}
        else:
            found |= served(route.routes, prefix + route.path)
    return found


async def test_every_route_is_described_and_has_its_expectation(site):
    routes = served(site.deployment.bridge._site.router.routes)
    for name, endpoint in site.deployment.endpoints.items():
        routes |= served(endpoint.host.routes(), f"/{name}")
    assert await described(site) == routes
    assert set(EXPECTED) == routes | {("SOCKET", "/register")}


@pytest.mark.parametrize("caller", CALLERS)
async def test_a_caller_hears_what_the_table_says(site, caller):
    heard = {route: await site.answer(caller, *route) for route in EXPECTED}
    assert heard == {route: cells[caller] for route, cells in EXPECTED.items()}
