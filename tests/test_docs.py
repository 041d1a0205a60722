import hashlib
import json
import os
import re
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from orbit_xgfabric import dict_to_config, dict_to_resource_config

from orbit_core.testing import Deployment, open_deployment, open_plugin
from tests.pages import run_page
from tests.processes import quiet_port
from tests.waiting import until

# PSI/J leaves the pipe of a local job to the garbage collector.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedReader:ResourceWarning"),
]

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
PLUGINS = [
    "orbit_sysinfo.plugin:SysInfoPlugin",
    "orbit_psij.plugin:PSIJPlugin",
    "orbit_rhapsody.plugin:RhapsodyPlugin",
    "orbit_staging.plugin:StagingPlugin",
    "orbit_xgfabric.plugin:XGFabricPlugin",
]
LINK = re.compile(r"\]\(([^)#]+)\)")
JSON = re.compile(r"^```json\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


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
            await until(lambda: deployment.bridge.ring.listeners)
            job = await psij.submit_job({"executable": "/bin/true"})
            await psij.wait_job(job["job_id"])
    assert said[0].startswith("connected: node7\nnode7 psij job_status {")


def test_the_commands_of_the_tutorial_run(tmp_path: Path) -> None:
    port = str(quiet_port())
    settings = tmp_path / ".config" / "orbit" / "orbit.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"[bridge]\nport = {port}\n")
    page = ROOT / "docs" / "tutorial" / "first-job.md"
    said = run_page(page, tmp_path, without="Install", _8000=port)
    assert said.startswith("NAME ")
    for part in (
        "\nstep 1\nstep 2\nstep 3\n",
        " COMPLETED\nexit code 0\n",
        "\nended as COMPLETED\n1\n2\n3\n{",
        '"state":"COMPLETED"',
        '"status":"canceled"',
    ):
        assert part in said
    assert said.endswith('{"ok":true}')
    assert f"bridge ready: http://127.0.0.1:{port}\n" in (tmp_path / "1.log").read_text()
    # More may be installed here than the page installs.
    ready = rf"endpoint node7 ready: linked to http://127.0.0.1:{port}, plugins: psij, .*sysinfo"
    assert re.search(ready, (tmp_path / "2.log").read_text())
    assert "node7 psij job_status {" in (tmp_path / "3.log").read_text()


def test_the_commands_of_the_workflow_tutorial_run(tmp_path: Path) -> None:
    port = str(quiet_port())
    settings = tmp_path / ".config" / "orbit" / "orbit.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"[bridge]\nport = {port}\n")
    page = ROOT / "docs" / "tutorial" / "first-workflow.md"
    said = run_page(page, tmp_path, without="Install")
    for part in ("4/4  completed: ", "\nstatus: completed\n", "\nstopped\n"):
        assert part in said
    assert re.search(r"^run-\w+ completed: [\d.]+ s in all$", said, re.MULTILINE)
    assert said.splitlines()[-1].endswith("cancelled by user")
    assert (tmp_path / "report.svg").read_text().startswith("<svg")
    assert "simulations,node7,sim-3," in (tmp_path / "report.csv").read_text()


def test_the_json_of_the_page_on_workflows_is_read() -> None:
    page = (ROOT / "docs" / "how-to" / "run-a-workflow-across-clusters.md").read_text()
    resource, again = map(json.loads, JSON.findall(page))
    clusters = dict_to_resource_config(resource).cluster_configs
    assert clusters["anvil"].backends == ["dragon_v3"]
    continuous = dict_to_config(again).continuous
    assert continuous is not None
    assert (continuous.trigger, continuous.overlap) == ("change", "queue")


def test_the_commands_for_tls_run(tmp_path: Path) -> None:
    page = ROOT / "docs" / "how-to" / "run-a-bridge-with-tls.md"
    names = {"hub.example.org": "localhost", "_8443": str(quiet_port())}
    said = run_page(page, tmp_path, **names)
    heading, bridge, node = said.splitlines()[-3:]
    assert heading.split() == ["NAME", "ROLE", "LIVENESS", "PLUGINS"]
    assert (bridge.split()[0], node.split()[0]) == ("bridge", "node7")


async def test_the_plugin_that_is_shown_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, tried = PYTHON.findall((ROOT / "docs" / "how-to" / "write-a-plugin.md").read_text())
    imports = "from orbit_core import Plugin\nfrom orbit_example.plugin import ExampleSession\n"
    (tmp_path / "shown.py").write_text(imports + shown)
    monkeypatch.syspath_prepend(ROOT / "templates" / "plugin")
    monkeypatch.syspath_prepend(tmp_path)
    async with (
        open_plugin("shown:ExamplePlugin", tmp_path / "a", instance="example") as tested,
        tested.http() as http,
    ):
        reply = await http.post("/example/add/default")
        assert reply.json() == {"value": 1}
    names: dict[str, Any] = {"open_plugin": open_plugin, "tmp_path": tmp_path / "b"}
    exec("async def try_it():\n" + textwrap.indent(tried, "    ") + "    return reply", names)
    assert (await names["try_it"]()).json() == {"value": 5}


@pytest.mark.parametrize("plugin", ["psij", "rhapsody", "staging", "sysinfo", "xgfabric"])
async def test_the_python_on_a_plugins_page_runs(
    deployment: Deployment, plugin: str, tmp_path: Path
) -> None:
    page = ROOT / "orbit_plugins" / plugin / "README.md"
    (shown,) = PYTHON.findall(page.read_text())
    assert await run_script(deployment, shown, tmp_path)


async def run_script(deployment: Deployment, script: str, directory: Path | None = None) -> str:
    """Return what a script prints, whose settings lead to the deployment."""
    with anyio.fail_after(60):
        done = await anyio.run_process(
            [sys.executable, "-c", script],
            env=await environment(deployment),
            stderr=None,
            cwd=directory,
        )
    return done.stdout.decode()


async def test_ten_thousand_parameter_points_run(deployment: Deployment) -> None:
    page = ROOT / "docs" / "how-to" / "run-parameter-points.md"
    (shown,) = PYTHON.findall(page.read_text())
    said = (await run_script(deployment, shown)).splitlines()
    assert said[-2:] == ["10000 of 10000", "7.8114 at (2.45, 2.25)"]


async def test_the_notebook_runs(deployment: Deployment) -> None:
    cells = json.loads((EXAMPLES / "parameter_points.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    said = await run_script(deployment, "\n".join([*code, "print(len(energies))"]))
    assert said == "10000\n"


async def test_the_page_on_files_moves_files(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "move-files.md").read_text()
    commands = re.findall(r"^    (orbit .*)$", page, re.MULTILINE)
    (shown,) = PYTHON.findall(page)
    (tmp_path / "input.dat").write_text("1 2 3\n")
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "mesh").write_text("4 5\n")
    nodes = {"node7": PLUGINS, "node8": PLUGINS}
    async with open_deployment(tmp_path / "state", plugins=nodes) as deployment:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = {**await environment(deployment), "PATH": path}
        with anyio.fail_after(120):
            for command in [["bash", "-ec", "\n".join(commands)], [sys.executable, "-c", shown]]:
                done = await anyio.run_process(command, env=env, cwd=tmp_path, stderr=None)
    assert (tmp_path / "copy.dat").read_text() == "1 2 3\n"
    assert (tmp_path / "results" / "mesh").read_text() == "4 5\n"
    total = hashlib.sha256(b"1 2 3\n").hexdigest()
    assert done.stdout.decode().endswith(f"6 of 6 bytes\n{total}\n")


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
