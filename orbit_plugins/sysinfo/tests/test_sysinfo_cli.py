import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from click.testing import CliRunner, Result
from orbit_sysinfo.cli import describe, summarise

from orbit_core.cli import orbit
from orbit_core.testing import ALICE, Deployment, open_deployment

pytestmark = pytest.mark.anyio

METRICS = {
    "system": {
        **{"hostname": "node7", "user": "ada", "uptime": 7200.0},
        **{"kernel": "Linux 5.14", "arch": "x86_64"},
    },
    "cpu": {
        **{"model": "AMD EPYC 7763", "vendor": "", "cores_physical": 64, "cores_logical": 128},
        **{"percent": 12.5, "load_avg": [3.0, 2.5, 1.25], "freq_mhz": None},
    },
    "memory": {"total": 256 * 1024**3, "available": 0, "percent": 25.0, "used": 64 * 1024**3},
    "disks": [
        {
            **{"mount": "/home", "device": "filer:/home", "fstype": "nfs4", "type": "shared"},
            **{"total": 10 * 1024**3, "used": 1024**3, "percent": 10.0},
        }
    ],
    "network": [],
    "gpus": [
        {"id": "nvidia0", "vendor": "NVIDIA", "name": "A100", "util_gpu": 87},
        {"id": "intel1", "vendor": "Intel", "name": "Intel GPU"},
    ],
}


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    plugins = {"node7": ["orbit_sysinfo.plugin:SysInfoPlugin"]}
    async with open_deployment(tmp_path, plugins=plugins) as found:
        yield found


async def run(deployment: Deployment, directory: Path, *arguments: str) -> Result:
    """Run the command line in a thread, as it blocks; the bridge goes on in this one."""
    token = directory / "token"
    secret = await deployment.token(ALICE)
    await anyio.Path(token).write_text(secret)
    token.chmod(0o600)
    options = ["--url", deployment.url, "--token-file", str(token)]
    if deployment.bridge.config.cert:
        options += ["--cert", str(deployment.bridge.config.cert)]
    command = [*options, "sysinfo", *arguments]
    invoke = partial(CliRunner().invoke, orbit, command, catch_exceptions=False)
    with anyio.fail_after(60):
        return await anyio.to_thread.run_sync(invoke)


async def test_show_prints_the_metrics_as_json(deployment: Deployment, tmp_path: Path) -> None:
    result = await run(deployment, tmp_path, "show", "node7", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["memory"]["total"] > 0


async def test_show_prints_the_metrics_as_text(deployment: Deployment, tmp_path: Path) -> None:
    result = await run(deployment, tmp_path, "show", "node7")
    assert result.exit_code == 0, result.output
    assert "GiB" in result.stdout


async def test_watch_ends_after_the_wanted_samples(deployment: Deployment, tmp_path: Path) -> None:
    result = await run(deployment, tmp_path, "watch", "node7", "--count", "2")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["cpu", "cpu"]


async def test_watch_prints_one_json_object_a_line(deployment: Deployment, tmp_path: Path) -> None:
    result = await run(deployment, tmp_path, "watch", "node7", "--count", "1", "--json")
    assert "cpu" in json.loads(result.stdout)


def test_the_description_has_a_section_for_what_there_is() -> None:
    lines = describe(METRICS).splitlines()
    assert lines[0] == "node7: Linux 5.14 x86_64, up 2.0 h"
    assert "64 cores, 128 threads, 12.5% busy, load 3 2.5 1.25" in lines[1]
    assert lines[2] == "memory 64.0 of 256.0 GiB (25%)"
    assert any(line.startswith("/home  shared  nfs4") and "10.0 GiB" in line for line in lines)
    assert not any(line.startswith("INTERFACE") for line in lines)


def test_the_summary_is_one_line_with_the_gpus_that_tell_their_load() -> None:
    assert summarise(METRICS) == "cpu  12.5%  load 3.00  memory  25.0%  nvidia0 87%"
