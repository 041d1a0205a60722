import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from orbit_core.testing import Deployment, open_deployment

pytestmark = pytest.mark.anyio

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
    command = [sys.executable, str(EXAMPLES / "listen.py"), "1"]
    with anyio.fail_after(60):
        async with await anyio.open_process(
            command, env=await environment(deployment), stderr=None
        ) as listener:
            text = await _first_text(listener)
            async with deployment.client() as bridge:
                psij = await bridge.get_endpoint_client("node7").get_plugin("psij")
                await psij.post(f"submit/{psij.sid}", {"job_spec": {"executable": "/bin/true"}})
                text += await _rest(listener)
    assert text.startswith("connected: node7\nnode7 psij job_status {")


async def _first_text(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.receive()).decode()


async def _rest(process: Process) -> str:
    assert process.stdout is not None
    return "".join([part async for part in TextReceiveStream(process.stdout)])


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
