import os
import shutil
from collections import Counter
from contextlib import asynccontextmanager

import anyio
import pytest
from orbit_queue_info import QueueInfoClient

from orbit_core.batch import UnknownBatchJob
from orbit_core.models import HostRole
from orbit_core.testing import open_plugin

pytestmark = [pytest.mark.site, pytest.mark.anyio]

TARGET = "orbit_queue_info.plugin:PluginQueueInfo"
PATIENCE = 60.0


@asynccontextmanager
async def open_client(directory, scheduler):
    async with (
        open_plugin(
            TARGET, directory, instance="queue_info", role=HostRole.LOGIN, scheduler=scheduler
        ) as served,
        served.http() as http,
    ):
        client = QueueInfoClient(http, "/queue_info")
        await client.register_session()
        yield client


@pytest.fixture(params=["slurm", "pbs"])
def scheduler(request, on_site):
    return request.param


async def until_listed(client, condition):
    """Wait until the cache has let through what the scheduler tells by now."""
    with anyio.fail_after(PATIENCE):
        while not condition(found := (await client.list_all_jobs(user="*"))["jobs"]):
            await anyio.sleep(0.2)
    return found


async def test_queues_are_those_of_the_cluster(scheduler, tmp_path):
    async with open_client(tmp_path, scheduler) as client:
        queues = (await client.get_info())["queues"]

    assert {name: queue["time_limit"] for name, queue in queues.items()} == {
        "batch": 86400, "debug": 1800, "gpu": None, "maint": 3600
    }  # fmt: skip
    assert {name: queue["state"] for name, queue in queues.items()} == {
        "batch": "UP", "debug": "UP", "gpu": "UP", "maint": "DOWN"
    }  # fmt: skip
    assert (queues["debug"]["nodes_total"], queues["debug"]["gpus_per_node"]) == (4, 2)
    assert (queues["debug"]["cpus_per_node"], queues["debug"]["mem_per_node_mb"]) == (4, 4000)


async def test_a_job_is_seen_pending_running_and_gone(scheduler, cluster, tmp_path):
    job = cluster.run("sbatch", "--parsable", "--output=/dev/null", "--partition=gpu", "--time=5",
                      "--job-name=seen", "--gres=gpu:1", "--hold", "--wrap=sleep 600")  # fmt: skip

    def find(jobs):
        return next((found for found in jobs if found["job_id"] == job), None)

    async with open_client(tmp_path, scheduler) as client:
        held = find(await until_listed(client, find))
        cluster.run("scontrol", "release", job)
        running = find(
            await until_listed(client, lambda jobs: (find(jobs) or {}).get("state") == "RUNNING")
        )
        native = job if scheduler == "slurm" else f"{job}.pbs-lab"
        assert (await client.cancel_job(native))["status"] == "canceled"
        await until_listed(
            client, lambda jobs: (find(jobs) or {}).get("state") not in ("RUNNING", "COMPLETING")
        )

    assert held["state"] == {"slurm": "PENDING", "pbs": "HELD"}[scheduler]
    assert (held["job_name"], held["partition"], held["time_limit"]) == ("seen", "gpu", 300)
    assert (running["node_list"], running["user"]) == ("node04", "root")
    assert running["account"] == "proj1"


async def test_an_unknown_job_cannot_be_cancelled(scheduler, tmp_path):
    async with open_client(tmp_path, scheduler) as client:
        with pytest.raises(UnknownBatchJob):
            await client.cancel_job("999999999")


async def test_allocations_are_those_of_the_accounting(on_site, tmp_path):
    async with open_client(tmp_path, "slurm") as client:
        own = (await client.list_allocations())["allocations"]
        other = (await client.list_allocations(user="labuser"))["allocations"]

    assert {entry["account"] for entry in own} == {"root", "proj1", "proj2"}
    assert [(entry["account"], entry["max_jobs"], entry["max_submit"], entry["qos"])
            for entry in other] == [("proj1", None, None, "high,normal"),
                                    ("proj2", 4, 8, "high,normal")]  # fmt: skip


async def test_two_hundred_clients_cost_no_more_queries_than_one(on_site, tmp_path, monkeypatch):
    calls, folder = tmp_path / "calls", tmp_path / "bin"
    folder.mkdir()
    for name in ("sinfo", "squeue", "sacctmgr"):
        counting = f'#!/bin/sh\necho {name} >> {calls}\nexec {shutil.which(name)} "$@"\n'
        (folder / name).write_text(counting)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    async def ask(client):
        for _ in range(5):
            await client.get_info(force=True)
            await client.list_all_jobs(force=True)
            await client.list_jobs("debug", force=True)

    began = anyio.current_time()
    async with open_client(tmp_path / "state", "slurm") as client:
        async with anyio.create_task_group() as group:
            for _ in range(200):
                group.start_soon(ask, client)
        intervals = 1 + int((anyio.current_time() - began) / 10)

    counted = Counter(calls.read_text().split())
    assert counted["squeue"] <= intervals
    assert counted["sinfo"] <= intervals + 1  # the first time in JSON, which lacks partitions
    assert counted["sacctmgr"] <= intervals + 1


async def test_why_any_job_failed_is_told_with_its_nodes(scheduler, cluster, tmp_path):
    job = cluster.run("sbatch", "--parsable", "--wait", "--output=/dev/null", "--wrap=true")
    failed = cluster.run(
        "sh", "-c", "sbatch --parsable --wait --output=/dev/null --wrap='exit 3' || true"
    )
    suffix = "" if scheduler == "slurm" else ".pbs-lab"
    async with open_client(tmp_path, scheduler) as client:
        with anyio.fail_after(PATIENCE):
            while (well := await client.job(job + suffix, True))["state"] != "DONE":
                await anyio.sleep(0.5)
            ended = await client.job(failed + suffix)

    assert (well["why"], well["exit_code"]) == (None, 0)
    assert (ended["state"], ended["why"], ended["exit_code"]) == ("FAILED", "exit code 3", 3)
    assert ended["nodes"].startswith("node0")
