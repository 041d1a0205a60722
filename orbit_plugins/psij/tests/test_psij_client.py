import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from click.testing import CliRunner, Result
from orbit_psij import JobResources, JobSpec, PSIJClient, SubmitFailed, UnknownJob

from orbit_core.cli import orbit
from orbit_core.config import BridgeConfig
from orbit_core.errors import BadRequest, InvalidBody
from orbit_core.testing import ALICE, Deployment, open_deployment

pytestmark = pytest.mark.anyio

TARGETS = ["orbit_psij.plugin:PSIJPlugin"]


def shell(script: str) -> dict[str, Any]:
    return {"executable": "/bin/sh", "arguments": ["-c", script]}


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    config = BridgeConfig(port=0, plugins=[], grace=0.2)
    async with open_deployment(tmp_path, config=config) as found:
        yield found


@pytest.fixture
async def psij(deployment: Deployment) -> AsyncIterator[PSIJClient]:
    async with deployment.endpoint("node7", TARGETS), deployment.client() as client:
        found = await client.get_endpoint_client("node7").get_plugin("psij", sid="lab")
        assert isinstance(found, PSIJClient)
        yield found


async def test_a_job_is_submitted_waited_for_and_listed(psij: PSIJClient) -> None:
    spec = JobSpec("/bin/echo", ["hello"], resources=JobResources(node_count=1))
    job = await psij.submit_job(spec)
    found = await psij.wait_job(job["job_id"], timeout=20)
    assert (found["state"], found["stdout"]) == ("COMPLETED", "hello\n")
    assert [job["job_id"] for job in await psij.list_jobs()] == [job["job_id"]]
    assert await psij.executors() == ["local"]


async def test_a_job_is_followed_and_cancelled_through_the_bridge(psij: PSIJClient) -> None:
    job = await psij.submit_job(shell("echo one; echo two >&2; exec sleep 300"))
    with anyio.fail_after(20):
        parts = psij.follow_output(job["job_id"])
        assert await anext(parts) == b"one\n"
        await parts.aclose()  # type: ignore[attr-defined]
    assert (await psij.cancel_job(job["job_id"]))["status"] == "canceled"
    rest = [part async for part in psij.follow_output(job["job_id"], "stderr", 1)]
    assert b"".join(rest) == b"wo\n"


async def test_errors_keep_their_class(psij: PSIJClient) -> None:
    with pytest.raises(UnknownJob):
        await psij.get_job_status("none")
    with pytest.raises(InvalidBody, match="required field missing at executable"):
        await psij.submit_job({})
    with pytest.raises(SubmitFailed, match="/nowhere"):
        await psij.submit_job({"executable": "true", "directory": "/nowhere"})


async def test_a_key_makes_one_job_of_two_submits(psij: PSIJClient) -> None:
    first = await psij.submit_job(shell("true"), idempotency_key="k")
    assert await psij.submit_job(shell("true"), idempotency_key="k") == first


async def test_waiting_ends_with_its_timeout(psij: PSIJClient) -> None:
    job = await psij.submit_job(shell("exec sleep 300"))
    with pytest.raises(TimeoutError):
        await psij.wait_job(job["job_id"], timeout=0.2)
    await psij.cancel_job(job["job_id"])


async def test_a_client_without_a_session_says_so(psij: PSIJClient) -> None:
    await psij.unregister_session()
    with pytest.raises(RuntimeError, match="no active session"):
        await psij.list_jobs()


async def test_waiting_outlasts_a_restart_of_the_endpoint(
    deployment: Deployment, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    ends: list[dict[str, Any]] = []
    over = anyio.Event()
    async with deployment.client() as client, anyio.create_task_group() as group:
        async with deployment.endpoint("node7", TARGETS):
            psij: Any = await client.get_endpoint_client("node7").get_plugin(
                "psij", lifetime="persistent"
            )
            job = await psij.submit_job(
                shell(f"until [ -e {gate} ]; do sleep 0.02; done; echo end")
            )

            async def wait() -> None:
                ends.append(await psij.wait_job(job["job_id"], timeout=30))
                over.set()

            group.start_soon(wait)
            await anyio.lowlevel.checkpoint()
        await anyio.Path(gate).touch()
        async with deployment.endpoint("node7", TARGETS):
            with anyio.fail_after(30):
                await over.wait()
    assert (ends[0]["state"], ends[0]["stdout"]) == ("COMPLETED", "end\n")


class Shell:
    """Run the command line as alice does; it blocks, so in a thread of its own."""

    def __init__(self, options: list[str]) -> None:
        self._options = options

    async def __call__(self, *arguments: str, code: int = 0) -> Result:
        command = [*self._options, "psij", *arguments]
        invoke = partial(CliRunner().invoke, orbit, command, catch_exceptions=False)
        with anyio.fail_after(60):
            result = await anyio.to_thread.run_sync(invoke)
        assert result.exit_code == code, result.output
        return result


@pytest.fixture
async def run(deployment: Deployment, tmp_path: Path) -> AsyncIterator[Shell]:
    token = tmp_path / "token"
    token.write_text(await deployment.token(ALICE))
    token.chmod(0o600)
    async with deployment.endpoint("node7", TARGETS):
        yield Shell(["--url", deployment.url, "--token-file", str(token)])


async def test_what_needs_a_scheduler_does_not_run_on_the_endpoints_host_instead(
    run: Shell,
) -> None:
    refused = await run("submit", "node7", "--gpus-per-node", "2", "--", "true", code=1)
    assert "no scheduler answered" in refused.stderr
    assert "--gpus-per-node needs one: " in refused.stderr
    assert json.loads((await run("list", "node7", "--json")).stdout) == []


async def test_a_job_is_run_from_the_shell(run: Shell, tmp_path: Path) -> None:
    options = ["--name", "n", "--dir", str(tmp_path), "--env", "A=x=y", "--duration", "60"]
    more = ["--queue", "q", "--account", "a", "--nodes", "1", "--executor", "local"]
    job_id = (
        await run("submit", "node7", *options, *more, "--", "/bin/sh", "-c", "pwd; echo $A")
    ).stdout.strip()
    assert (await run("output", "node7", job_id, "--follow")).stdout == f"{tmp_path}\nx=y\n"
    assert "COMPLETED\nexit code 0\n" in (await run("wait", "node7", job_id)).stdout
    found = json.loads((await run("status", "node7", job_id, "--json")).stdout)
    assert (found["name"], found["queue_name"], found["duration"]) == ("n", "q", 60)
    listed = (await run("list", "node7")).stdout.splitlines()
    assert listed[0].split() == [
        "JOB",
        "ID",
        "STATE",
        "EXIT",
        "CODE",
        "EXECUTOR",
        "NAME",
        "EXECUTABLE",
    ]
    assert listed[1].split() == [job_id, "COMPLETED", "0", "local", "n", "/bin/sh"]


async def test_a_failed_job_ends_the_waiting_with_1(run: Shell) -> None:
    job = json.loads((await run("submit", "node7", "--json", "--", "false")).stdout)
    text = (await run("wait", "node7", job["job_id"], code=1)).stdout
    assert "FAILED\nexit code 1" in text
    streams = await run("output", "node7", job["job_id"], "--stream", "stderr", "--json")
    assert json.loads(streams.stdout) == {"job_id": job["job_id"], "stderr": ""}


async def test_a_running_job_is_cancelled_from_the_shell(run: Shell) -> None:
    job_id = (await run("submit", "node7", "--session", "s1", "sleep", "300")).stdout.strip()
    late = await run("wait", "node7", job_id, "--session", "s1", "--timeout", "0.1", code=1)
    assert "is not over yet" in late.output
    text = (await run("status", "node7", job_id, "--session", "s1")).stdout
    assert text.split() in ([job_id, "ACTIVE"], [job_id, "QUEUED"])
    found = await run("cancel", "node7", job_id, "--session", "s1")
    assert found.stdout == f"{job_id} canceled\n"
    with pytest.raises(UnknownJob):
        await run("cancel", "node7", job_id)


async def test_a_variable_without_a_value_is_a_usage_error(run: Shell) -> None:
    assert (
        "'A' is not KEY=VALUE"
        in (await run("submit", "node7", "--env", "A", "date", code=2)).output
    )


@pytest.fixture
async def run_beside_slurm(
    slurm: Any, deployment: Deployment, tmp_path: Path
) -> AsyncIterator[Shell]:
    token = tmp_path / "token"
    token.write_text(await deployment.token(ALICE))
    token.chmod(0o600)
    async with deployment.endpoint("login1", TARGETS, scheduler="slurm"):
        yield Shell(["--url", deployment.url, "--token-file", str(token)])


async def test_a_job_that_asks_for_a_queue_goes_to_the_scheduler(
    run_beside_slurm: Shell, slurm: Any
) -> None:
    options = ["--queue", "gpu", "--gpus-per-node", "2", "--set", "slurm.qos=high"]
    more = ["--processes-per-node", "4", "--reservation", "r", "--set", "slurm.constraint=a&b"]
    job_id = (await run_beside_slurm("submit", "login1", *options, *more, "false")).stdout.strip()
    waited = await run_beside_slurm("wait", "login1", job_id, code=1)
    assert f"{job_id} FAILED\nexit code 1\n" in waited.stdout
    shown = (await run_beside_slurm("status", "login1", job_id)).stdout
    assert shown == f"{job_id} FAILED\nexit code 1\n"
    for option in ("partition=gpu", "gpus-per-node=2", "qos=high", "ntasks-per-node=4",
                   "reservation=r", "constraint=a&b"):  # fmt: skip
        assert f"--{option} " in slurm.jobs()["1000"]["argv"]


async def test_waiting_shows_a_line_for_each_state(
    run_beside_slurm: Shell, slurm: Any, until: Any
) -> None:
    gate = slurm.folder / "gate"
    script = f"until [ -e {gate} ]; do sleep 0.02; done; echo out"
    submitted = await run_beside_slurm(
        "submit", "login1", "--nodes", "1", "--", "/bin/sh", "-c", script
    )
    job_id = submitted.stdout.strip()
    waits: list[Result] = []

    async def wait() -> None:
        waits.append(await run_beside_slurm("wait", "login1", job_id))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await until(lambda: slurm.jobs()["1000"]["state"] == "RUNNING")
        gate.touch()
    assert waits[0].stdout == f"{job_id} COMPLETED\nexit code 0\nout\n"
    assert set(waits[0].stderr.splitlines()) <= {
        f"{job_id} {state}: slurm as 1000" for state in ("QUEUED", "ACTIVE")
    }


async def test_elements_of_an_array_are_shown_and_read(run_beside_slurm: Shell) -> None:
    command = ["--count", "2", "--", "/bin/sh", "-c", "echo $ORBIT_ARRAY_INDEX; exit 3"]
    job_id = (await run_beside_slurm("submit", "login1", *command)).stdout.strip()
    assert (await run_beside_slurm("wait", "login1", job_id, code=1)).stdout.splitlines() == [
        f"{job_id} FAILED",
        "2 of 2 FAILED: [0] exit code 3",
        "[0] FAILED: exit code 3",
        "[1] FAILED: exit code 3",
    ]
    assert (await run_beside_slurm("output", "login1", job_id, "--index", "1")).stdout == "1\n"
    late = ["--after-any", job_id, "--after-ok", job_id, "true"]
    with pytest.raises(BadRequest, match="is FAILED already"):
        await run_beside_slurm("submit", "login1", *late)
