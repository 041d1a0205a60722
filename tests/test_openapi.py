import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from orbit_core.models import Role
from orbit_core.testing import ADMIN, open_deployment
from tests.asking import opened

pytestmark = pytest.mark.anyio

PLUGINS = ["orbit_psij.plugin:PSIJPlugin", "orbit_sysinfo.plugin:SysInfoPlugin"]


@pytest.fixture
async def document(tmp_path):
    async with (
        open_deployment(tmp_path, plugins={"node": PLUGINS}) as deployment,
        opened(deployment, await deployment.token(ADMIN)) as admin,
    ):
        yield (await admin.get("/openapi.json")).json()


def body(document, path):
    return document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


def answer(document, path, method="get"):
    content = document["paths"][path][method]["responses"]["200"]["content"]
    return content["application/json"]["schema"]


async def test_the_document_is_one_of_openapi(document):
    OpenAPIV31SpecValidator(document).validate()


async def test_the_fields_of_bodies_are_told(document):
    token = body(document, "/tokens")
    assert token["properties"]["role"] == {"enum": [role.value for role in Role]}
    assert token["required"] == ["role", "owner"]
    session = body(document, "/node/psij/register_session")
    assert list(session["properties"]) == ["sid", "lifetime", "ttl"]
    job = body(document, "/node/psij/submit/{sid}")
    assert job["required"] == ["job_spec"]
    spec = job["properties"]["job_spec"]
    assert spec["required"] == ["executable"]
    assert spec["properties"]["arguments"] == {"type": "array", "items": {"type": "string"}}
    assert "node_count" in spec["properties"]["resources"]["properties"]


async def test_the_fields_of_answers_are_told(document):
    assert answer(document, "/node/psij/status/{sid}/{job_id}")["title"] == "JobStatus"
    assert answer(document, "/node/sysinfo/metrics/{sid}")["title"] == "Metrics"
    assert answer(document, "/endpoints") == {}
    stream = document["paths"]["/node/psij/output/{sid}/{job_id}"]["get"]["responses"]["200"]
    assert "content" not in stream


async def test_what_an_answer_makes_possible_is_linked(document):
    opened = document["paths"]["/node/psij/register_session"]["post"]["responses"]["200"]["links"]
    assert opened["post_node_psij_submit_sid_"] == {
        "operationRef": "#/paths/~1node~1psij~1submit~1{sid}/post",
        "parameters": {"sid": "$response.body#/sid"},
    }
    started = document["paths"]["/node/psij/submit/{sid}"]["post"]["responses"]["200"]["links"]
    assert started["get_node_psij_status_sid_job_id_"]["parameters"] == {
        "sid": "$request.path.sid",
        "job_id": "$response.body#/job_id",
    }


async def test_only_open_routes_need_no_token(document):
    is_open = {
        path
        for path, item in document["paths"].items()
        for operation in item.values()
        if operation.get("security") == []
    }
    assert is_open == {"/", "/health", "/ready"}


async def test_a_body_is_told_only_where_one_is_taken_or_nobody_knows(document):
    assert "requestBody" not in document["paths"]["/bridge/terminate"]["post"]
    assert body(document, "/node/psij/cancel/{sid}/{job_id}") == {}
