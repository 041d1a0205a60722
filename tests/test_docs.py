import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from orbit_core.testing import Deployment, open_deployment

# PSI/J leaves the pipe of a local job to the garbage collector.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedReader:ResourceWarning"),
]

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
PLUGINS = ["orbit_sysinfo.plugin:SysInfoPlugin", "orbit_psij.plugin:PSIJPlugin"]
LINK = re.compile(r"\]\(([^)#]+)\)")


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    async with open_deployment(tmp_path, plugins={"node7": PLUGINS}) as found:
        yield found


async def environment(deployment: Deployment) -> dict[str, str]:
    return {**os.environ, "ORBIT_URL": deployment.url, "ORBIT_TOKEN": await deployment.token()}


async def test_the_first_job_is_followed_to_its_end(deployment: Deployment) -> None:
    command = [sys.executable, str(EXAMPLES / "first_job.py")]
    with anyio.fail_after(60):
        done = await anyio.run_process(command, env=await environment(deployment), stderr=None)
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "connected: node7"
    assert lines[2:] == ["step 1", "step 2", "step 3", "ended as COMPLETED"]


async def test_the_listener_hears_a_job(deployment: Deployment) -> None:
    said = []

    async def listen(env: dict[str, str]) -> None:
        command = [sys.executable, str(EXAMPLES / "listen.py"), "1"]
        said.append((await anyio.run_process(command, env=env, stderr=None)).stdout.decode())

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group, deployment.client() as bridge:
            group.start_soon(listen, await environment(deployment))
            psij: Any = await bridge.get_endpoint_client("node7").get_plugin("psij")
            while not deployment.bridge.ring.listeners:
                await anyio.sleep(0.01)
            job = await psij.submit_job({"executable": "/bin/true"})
            await psij.wait_job(job["job_id"])
    assert said[0].startswith("connected: node7\nnode7 psij job_status {")


def test_the_readme_shows_the_first_job_as_it_is() -> None:
    assert (EXAMPLES / "first_job.py").read_text() in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=str(page.relative_to(ROOT)))
        for page in sorted(ROOT.glob("docs/*/*.md"))
    ]
    + [pytest.param(ROOT / "README.md", id="README.md")],
)
def test_a_page_links_only_to_what_there_is(page: Path) -> None:
    targets = [found for found in LINK.findall(page.read_text()) if "://" not in found]
    assert [found for found in targets if not (page.parent / found).exists()] == []
