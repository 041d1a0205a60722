import sqlite3
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import attrs
import orbit_psij.plugin  # these here, since an import reads files, which blocks
import orbit_rhapsody.plugin
import orbit_staging.plugin
import orbit_xgfabric.plugin
import psutil
import pytest
from anyio.abc import TaskGroup
from blockbuster import BlockBuster, blockbuster_ctx
from orbit_xgfabric.client import XGFabricClient

from orbit_core.client import AsyncBridgeClient
from orbit_core.models import Principal
from orbit_core.testing import ALICE, Deployment, open_deployment

XGFABRIC = f"{orbit_xgfabric.plugin.__name__}:XGFabricPlugin"
RHAPSODY = f"{orbit_rhapsody.plugin.__name__}:RhapsodyPlugin"
STAGING = f"{orbit_staging.plugin.__name__}:StagingPlugin"
PSIJ = f"{orbit_psij.plugin.__name__}:PSIJPlugin"
PATIENCE = 60.0


def pytest_configure(config: pytest.Config) -> None:
    """Bear with PSI/J, which leaves the pipe of each local job to the garbage collector."""
    pipe = "unclosed file <_io.BufferedReader"
    config.addinivalue_line("filterwarnings", f"ignore:{pipe}:ResourceWarning")
    warnings.filterwarnings("ignore", pipe, ResourceWarning)  # between and after the tests


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail a test in which this plugin blocks the loop."""
    with blockbuster_ctx("orbit_xgfabric") as found:
        # What measures coverage has a lock of its own, which the threads of many files hold, too.
        found.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
        yield found


def shell(script: str, *arguments: str) -> dict[str, Any]:
    return {"executable": "/bin/sh", "arguments": ["-c", script, "stand-in", *arguments]}


@pytest.fixture(autouse=True)
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often than a user needs to."""
    monkeypatch.setattr("orbit_xgfabric.client.POLL", 0.05)
    for module in ("pilots", "migration"):
        monkeypatch.setattr(f"orbit_xgfabric.{module}.LOOK", 0.2)


@attrs.define(eq=False)
class Lab:
    """Be a deployment with clusters, and programs that stand in for the workflow's.

    Each program appends a line to `log`, and a simulation waits while the file `gate` is there.
    """

    deployment: Deployment
    directory: Path
    group: TaskGroup
    leaving: anyio.Event = attrs.field(factory=anyio.Event)
    bridges: dict[Principal, AsyncBridgeClient] = attrs.field(factory=dict)
    running: dict[str, tuple[anyio.Event, anyio.Event]] = attrs.field(factory=dict)

    shell = staticmethod(shell)

    def processes(self, word: str = "") -> list[int]:
        """Return the processes of the stand-ins, or those that name something else."""
        wanted = word or str(self.gate)
        return [
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if any(wanted in given for given in process.info["cmdline"] or [])
        ]

    def is_deserted(self) -> bool:
        """Kill what runs in the lab and outlives its endpoints, and tell whether nothing does."""
        return not self.kill(f"{self.directory}/")

    def kill(self, word: str) -> list[int]:
        """Kill the processes whose command lines name something, and return them."""
        found = self.processes(word)
        for pid in found:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        return found

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def gate(self) -> Path:
        return self.directory / "gate"

    def lines(self) -> list[str]:
        return sorted(self.log.read_text().split("\n")[:-1]) if self.log.exists() else []

    def begun(self) -> list[str]:
        found = self.directory / "begun"
        return sorted(found.read_text().split("\n")[:-1]) if found.exists() else []

    async def start(self, name: str, *targets: str, **options: Any) -> None:
        """Start an endpoint, for the first time or again, and wait until ``hub`` knows of it."""
        self.running[name] = anyio.Event(), anyio.Event()
        await self.group.start(self._host, name, targets, options)
        await self._until_known()

    async def _until_known(self) -> None:
        """Wait until ``hub``, if it runs, has heard who else does: it is told a little later."""
        if "hub" in self.running:
            hub = self.deployment.endpoints["hub"]
            await self.until(lambda: {*hub.topology} - self.pilots(hub.topology) == {*self.running})

    @staticmethod
    def pilots(names: Iterable[str]) -> set[str]:
        """Return those of the endpoints that are pilots."""
        return {name for name in names if ".xgf-" in name}

    async def _host(
        self, name: str, targets: tuple[str, ...], options: Any, *, task_status: Any
    ) -> None:
        stopping, stopped = self.running[name]
        async with self.deployment.endpoint(name, targets, **options):
            task_status.started()
            await stopping.wait()
        stopped.set()

    async def end(self, name: str) -> None:
        """Stop an endpoint in order, and wait until ``hub`` knows."""
        stopping, stopped = self.running.pop(name)
        stopping.set()
        await stopped.wait()
        if not self.leaving.is_set():
            await self._until_known()

    def change_state(self, statement: str, *values: str, endpoint: str = "hub") -> int:
        """Change what an endpoint that has stopped finds when it is back; return how many rows."""
        path = self.directory / "state" / "endpoints" / endpoint / "state.sqlite3"
        with sqlite3.connect(path) as connection:
            count = connection.execute(statement, values).rowcount
        connection.close()
        return count

    async def bridge(self, principal: Principal = ALICE) -> AsyncBridgeClient:
        if principal not in self.bridges:
            await self.group.start(self._be, principal)
        return self.bridges[principal]

    async def _be(self, principal: Principal, *, task_status: Any) -> None:
        async with self.deployment.client(principal) as client:
            self.bridges[principal] = client
            task_status.started()
            await self.leaving.wait()

    async def user(
        self, sid: str = "lab", principal: Principal = ALICE, **settings: Any
    ) -> XGFabricClient:
        """Return a client of the plugin in a lasting session."""
        endpoint = (await self.bridge(principal)).get_endpoint_client("hub")
        wanted = {"workdir": str(self.directory), "sid": sid, "lifetime": "persistent", **settings}
        client = await endpoint.get_plugin("xgfabric", **wanted)
        assert isinstance(client, XGFabricClient)
        return client

    def workflow(self, **changes: Any) -> dict[str, Any]:
        """Return a workflow of four simulations that write what they were told."""
        log, gate = f'>> "{self.log}"', f'[ -e "{self.gate}" ]'
        simulation = (
            f'echo "$1" >> "{self.directory}/begun"; while {gate}; do sleep 0.05; done; '
            f'echo "$2,$3" > "$4"; echo "sim $1" {log}'
        )
        return {
            "name": "stand-ins",
            "local_workspace": str(self.directory / "local"),
            "num_simulations": 4,
            "batch_size": 2,
            "train_models": ["pcr"],
            "mock_sensor_data": True,
            "timeouts": {"connect": 20, "away": 20},
            "simulation_task": shell(
                simulation, "{sim_id}", "{wind_speed}", "{wind_dir}", "{sim_output_file}"
            ),
            "training_tasks": {
                "pcr": shell(
                    f'ls "$1" > "$2/trained"; echo train {log}', "{simulations_dir}", "{output_dir}"
                )
            },
            "evaluation_task": shell(
                f'cp "$1/pcr/trained" "$2/evaluated"; echo evaluate {log}',
                "{models_dir}",
                "{eval_output}",
            ),
            **changes,
        }

    async def until(self, condition: Callable[[], bool | Awaitable[bool]]) -> None:
        with anyio.fail_after(PATIENCE):
            while not (await found if isinstance(found := condition(), Awaitable) else found):
                await anyio.sleep(0.01)

    async def until_phase(self, client: XGFabricClient, *phases: str) -> dict[str, Any]:
        """Wait until a run is in one of these phases."""
        with anyio.fail_after(PATIENCE):
            while (state := await client.get_status())["phase"] not in phases:
                await anyio.sleep(0.01)
        return state

    async def finish(self, client: XGFabricClient) -> dict[str, Any]:
        """Wait for the end of a run and return its state."""
        return await client.wait_workflow(PATIENCE)

    async def run(self, client: XGFabricClient, resource: Any = "default", **changes: Any) -> Any:
        """Run a workflow to its end and return its state."""
        await client.start_workflow(self.workflow(**changes), resource)
        return await self.finish(client)


Opener = Callable[..., AbstractAsyncContextManager[Lab]]


@asynccontextmanager
async def _open(
    directory: Path, endpoints: dict[str, list[str]], *, shared: bool = False
) -> AsyncIterator[Lab]:
    async with (
        open_deployment(directory / "state") as deployment,
        anyio.create_task_group() as group,
    ):
        lab = Lab(deployment, directory, group)
        try:
            for name, targets in endpoints.items():
                await lab.start(name, *targets, shared=shared)
            yield lab
        finally:
            lab.leaving.set()
            for name in list(lab.running):
                await lab.end(name)
            with anyio.CancelScope(shield=True):
                await lab.until(lab.is_deserted)


@pytest.fixture
def targets() -> dict[str, str]:
    """Return where each plugin is."""
    return {"xgfabric": XGFABRIC, "rhapsody": RHAPSODY, "staging": STAGING, "psij": PSIJ}


@pytest.fixture
def open_lab(tmp_path: Path) -> Opener:
    """Open a deployment with endpoints of one's choice."""

    def opener(shared: bool = False, **endpoints: list[str]) -> Any:
        return _open(tmp_path, endpoints, shared=shared)

    return opener


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """Open a deployment with an immediate cluster ``small``; the plugin is at ``hub``."""
    async with _open(tmp_path, {"small": [RHAPSODY, STAGING], "hub": [XGFABRIC]}) as found:
        yield found


@pytest.fixture
async def user(lab: Lab) -> XGFabricClient:
    return await lab.user()
