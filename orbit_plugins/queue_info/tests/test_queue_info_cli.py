import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from click.testing import CliRunner, Result
from orbit_queue_info.cli import clock

from orbit_core.batch import UnknownBatchJob
from orbit_core.cli import orbit
from orbit_core.testing import ALICE, Deployment, open_deployment

pytestmark = pytest.mark.anyio

SAMPLES = Path(__file__).parent / "samples"


@pytest.fixture
async def deployment(tmp_path: Path, scheduler: Any) -> AsyncIterator[Deployment]:
    for name, text in {
        "sinfo": "slurm24_sinfo_--json",
        "squeue": "slurm24_squeue_--json",
        "sacctmgr": "slurm24_sacctmgr_show_assoc_--json",
    }.items():
        scheduler.answer(name, (SAMPLES / text).read_text())
    async with (
        open_deployment(tmp_path) as found,
        found.endpoint("login1", ["orbit_queue_info.plugin:PluginQueueInfo"], scheduler="slurm"),
    ):
        yield found


@pytest.fixture
async def run(deployment: Deployment, tmp_path: Path) -> Callable[..., Any]:
    """Return what runs the command line in a thread, as it blocks."""
    token = tmp_path / "token"
    await anyio.Path(token).write_text(await deployment.token(ALICE))
    token.chmod(0o600)

    async def invoke(*command: str) -> Result:
        options = ["--url", deployment.url, "--token-file", str(token), *command]
        with anyio.fail_after(60):
            return await anyio.to_thread.run_sync(
                partial(CliRunner().invoke, orbit, options, catch_exceptions=False)
            )

    return invoke


@pytest.mark.parametrize("command", [["queues"], ["queue_info", "queues"]])
async def test_queues_are_a_table(run: Callable[..., Any], command: list[str]) -> None:
    result = await run(*command, "login1", "--user", "*")
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["NAME", "STATE", "TIME", "LIMIT"]
    assert lines[3].split()[:3] == ["gpu", "UP", "unlimited"]
    assert lines[-1].endswith("s old)")


async def test_queues_are_json(run: Callable[..., Any]) -> None:
    result = await run("queues", "login1", "--user", "*", "--json")
    assert json.loads(result.stdout)["queues"]["debug"]["time_limit"] == 1800


async def test_jobs_come_in_pages(run: Callable[..., Any]) -> None:
    result = await run("jobs", "login1", "--user", "*", "--limit", "2")
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["2", "3"]
    assert lines[-1] == "more: --after 3"


async def test_jobs_of_one_queue(run: Callable[..., Any]) -> None:
    result = await run("jobs", "login1", "--user", "*", "--queue", "gpu", "--json")
    assert [job["job_id"] for job in json.loads(result.stdout)["jobs"]] == ["3"]


async def test_allocations_are_a_table(run: Callable[..., Any]) -> None:
    result = await run("queue_info", "allocations", "login1", "--user", "labuser")
    assert [line.split()[0] for line in result.stdout.splitlines()[1:3]] == ["proj1", "proj2"]


async def test_a_job_is_cancelled(run: Callable[..., Any], scheduler: Any) -> None:
    scheduler.answer("squeue", "7|RUNNING|None|n1\n", to="--jobs=7")
    scheduler.answer("scancel")
    assert (await run("queue_info", "cancel", "login1", "7")).stdout == "7 canceled\n"


async def test_why_a_job_failed_is_told(run: Callable[..., Any], scheduler: Any) -> None:
    scheduler.answer("squeue", "7|OUT_OF_MEMORY|OutOfMemory|n1\n", to="--jobs=7")
    scheduler.answer("squeue", "8|PENDING|Priority|\n", to="--jobs=8")
    scheduler.answer("sacct", "7|OUT_OF_MEMORY|None|n1|0:125\n")
    failed, waiting = [(await run("queue_info", "job", "login1", job)).stdout for job in "78"]
    assert failed == "7 FAILED (OUT_OF_MEMORY)\nout of memory\nnodes: n1\n"
    assert waiting == "8 PENDING (PENDING)\n"


async def test_an_unknown_job_is_told(run: Callable[..., Any], scheduler: Any) -> None:
    for name in ("squeue", "sacct", "scontrol"):
        scheduler.answer(name)
    with pytest.raises(UnknownBatchJob, match="slurm knows no job 7"):
        await run("queue_info", "cancel", "login1", "7")


async def test_the_allocation_of_the_endpoint(
    run: Callable[..., Any], scheduler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = await run("queue_info", "allocation", "login1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NNODES", "2")
    scheduler.answer("squeue", "30:00\n", to="--job=7")
    inside = await run("queue_info", "allocation", "login1")

    assert outside.stdout == "the endpoint runs in no batch job\n"
    assert inside.stdout.splitlines() == ["job_id: 7", "n_nodes: 2", "runtime: 1800", "hosts: "]


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "unlimited"), (0, "0:00:00"), (90061, "25:01:01")]
)
def test_durations_are_shown_as_clocks(seconds: int | None, text: str) -> None:
    assert clock(seconds) == text
