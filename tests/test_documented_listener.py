"""The listener of the documentation needs the distribution sseclient-py, not sseclient."""

import json

import anyio
import anyio.to_thread
import pytest
import requests
import sseclient

from tests.probe_plugin import notify

pytestmark = pytest.mark.anyio


async def test_the_documented_listener_hears_the_topology_then_a_notification(deployment, client):
    topics = []
    began = anyio.Event()

    def follow(url, headers):
        with requests.get(url + "/events", stream=True, headers=headers) as response:
            for event in sseclient.SSEClient(response).events():
                topics.append(json.loads(event.data)["topic"])
                anyio.from_thread.run_sync(began.set)
                if topics[-1] == "notification":
                    return

    headers = {"Authorization": f"Bearer {await deployment.token()}"}
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, follow, deployment.url, headers)
        with anyio.fail_after(10):
            await began.wait()
            await notify(client, 1)
            while "notification" not in topics:
                await anyio.sleep(0.005)
    assert (topics[0], topics[-1]) == ("topology", "notification")
