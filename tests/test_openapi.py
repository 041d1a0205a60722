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
