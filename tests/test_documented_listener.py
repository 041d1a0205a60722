"""The listener of the documentation needs the distribution sseclient-py, not sseclient."""

import json

import anyio
import anyio.to_thread
import pytest
import requests
import sseclient

from orbit_core.testing import open_deployment

# PSI/J leaves the pipe of a local job to the garbage collector.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedReader:ResourceWarning"),
]

PLUGINS = {"node": ["orbit_psij.plugin:PSIJPlugin"]}


async def test_the_documented_listener_hears_the_topology_then_a_jobs_states(tmp_path):
    heard = []
    began = anyio.Event()

    def follow(url, headers):
        with requests.get(url + "/events", stream=True, headers=headers) as response:
            for event in sseclient.SSEClient(response).events():
                heard.append(json.loads(event.data))
                anyio.from_thread.run_sync(began.set)
                if is_last(heard[-1]):
                    return

    async with (
        open_deployment(tmp_path, plugins=PLUGINS) as deployment,
        deployment.client() as client,
    ):
        headers = {"Authorization": f"Bearer {await deployment.token()}"}
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.to_thread.run_sync, follow, deployment.url, headers)
                await began.wait()
                psij = await client.get_endpoint_client("node").get_plugin("psij")
                job = await psij.submit_job({"executable": "/bin/echo", "arguments": ["hello"]})

    assert heard[0]["topic"] == "topology"
    assert "node" in heard[0]["data"]["endpoints"]
    news = [document["data"] for document in heard if document["topic"] == "notification"]
    assert {(one["endpoint"], one["plugin"], one["topic"]) for one in news} == {
        ("node", "psij", "job_status")
    }
    assert {one["data"]["job_id"] for one in news} == {job["job_id"]}
    assert [one["data"]["state"] for one in news] == ["QUEUED", "ACTIVE", "COMPLETED"]
    assert (news[-1]["data"]["exit_code"], news[-1]["data"]["stdout"]) == (0, "hello\n")


def is_last(document):
    return document["topic"] == "notification" and document["data"]["data"]["state"] == "COMPLETED"
