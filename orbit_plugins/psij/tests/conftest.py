import importlib.util
import json
import os
import sqlite3
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs
import httpx
import orbit_psij.plugin  # here, since an import reads files, which blocks
import psutil
import pytest
from blockbuster import blockbuster_ctx
from orbit_psij import PSIJClient

from orbit_core.models import Notification, Principal
from orbit_core.testing import ALICE, PluginUnderTest, open_plugin

_FAKE = importlib.util.spec_from_file_location(
    "fake_slurm", Path(__file__).with_name("fake_slurm.py")
)
assert _FAKE is not None
assert _FAKE.loader is not None
fake_slurm = importlib.util.module_from_spec(_FAKE)
_FAKE.loader.exec_module(fake_slurm)

TARGET = f"{orbit_psij.plugin.__name__}:PSIJPlugin"
PATIENCE, BATCH_PATIENCE = 20.0, 30.0
JOBS_SPACE = "plugin/psij/jobs"


PIPE = "unclosed file <_io.BufferedReader"


def pytest_configure(config: pytest.Config) -> None:
    """Bear with PSI/J, which leaves the pipe of each local job to the garbage collector."""
    config.addinivalue_line("filterwarnings", f"ignore:{PIPE}:ResourceWarning")
    warnings.filterwarnings("ignore", PIPE, ResourceWarning)  # between and after the tests


@pytest.fixture(scope="session", autouse=True)
def _pipes_of_psij() -> Iterator[None]:
    """Bear with that too where PSI/J's thread does it while pytest puts its filters in place."""
    hook = sys.unraisablehook

    def bear(found: "sys.UnraisableHookArgs") -> None:
        if not (isinstance(found.exc_value, ResourceWarning) and PIPE in str(found.exc_value)):
            hook(found)

    sys.unraisablehook = bear
    yield
    sys.unraisablehook = hook


async def _until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    with anyio.fail_after(PATIENCE):
        while not (await found if isinstance(found := condition(), Awaitable) else found):
            await anyio.sleep(0.01)


@attrs.define(eq=False)
class User:
    """Work in one session of the plugin, over its HTTP routes."""

    http: httpx.AsyncClient
    sid: str
    notifications: list[Notification]
    served: PluginUnderTest

    async def post(self, route: str, body: Any = None, **headers: str) -> httpx.Response:
        return await self.http.post(f"/psij/{route}", json=body, headers=headers)

    async def get(self, route: str) -> httpx.Response:
        return await self.http.get(f"/psij/{route}")

    async def try_submit(self, key: str | None = None, **spec: Any) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.post(f"submit/{self.sid}", {"job_spec": spec}, **headers)

    async def submit(self, script: str, **spec: Any) -> str:
        reply = await self.try_submit(executable="/bin/sh", arguments=["-c", script], **spec)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["job_id"])

    async def status(self, job_id: str, query: str = "") -> dict[str, Any]:
        reply = await self.get(f"status/{self.sid}/{job_id}{query}")
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    async def until(
        self, job_id: str, condition: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        with anyio.fail_after(PATIENCE):
            while not condition(found := await self.status(job_id)):
                await anyio.sleep(0.01)
        return found

    async def until_over(self, job_id: str) -> dict[str, Any]:
        return await self.until(
            job_id, lambda found: found["state"] in ("COMPLETED", "FAILED", "CANCELED")
        )

    async def until_gone(self, job_id: str) -> None:
        async def is_gone() -> bool:
            return (await self.get(f"status/{self.sid}/{job_id}")).status_code != 200

        await _until(is_gone)

    async def until_prints(self, job_id: str, text: str) -> dict[str, Any]:
        return await self.until(job_id, lambda found: text in found["stdout"])

    def heard(self, job_id: str) -> list[dict[str, Any]]:
        return [
            note.data
            for note in self.notifications
            if note.topic == "job_status" and note.data["job_id"] == job_id
        ]


Opener = Callable[..., AbstractAsyncContextManager[User]]


@contextmanager
def _unblocked() -> Iterator[None]:
    """Fail a test in which this plugin blocks the loop."""
    with blockbuster_ctx("orbit_psij") as found:
        # What measures coverage has a lock of its own, which the threads of many files hold, too.
        found.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
        yield


@asynccontextmanager
async def _open(
    directory: Path, sid: str = "lab", principal: Principal = ALICE, **settings: Any
) -> AsyncIterator[User]:
    with _unblocked():
        async with open_plugin(TARGET, directory, instance="psij", settings=settings) as served:
            assert served.status.state == "served", served.status
            async with served.http(principal) as http:
                body = {"sid": sid, "lifetime": "persistent"}
                reply = await http.post("/psij/register_session", json=body)
                assert reply.status_code == 200, reply.text
                yield User(http, sid, served.notifications, served)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def open_user() -> Opener:
    """Open the plugin with its state in a directory, as a user with a lasting session."""
    return _open


@pytest.fixture
async def user(tmp_path: Path) -> AsyncIterator[User]:
    async with _open(tmp_path) as found:
        yield found


@pytest.fixture
def until() -> Callable[[Callable[[], bool | Awaitable[bool]]], Awaitable[None]]:
    """Wait for a condition, plain or asynchronous, looking again and again until a deadline."""
    return _until


@pytest.fixture
def has_ended() -> Callable[[int | str], bool]:
    """Tell whether a process is no more, reaped or not by whoever inherited it."""

    def look(pid: int | str) -> bool:
        try:
            return psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return look


@pytest.fixture
def fault() -> Callable[[httpx.Response], tuple[int, str]]:
    """Return status and code of an error reply, after a look at its form."""

    def read(reply: httpx.Response) -> tuple[int, str]:
        document = json.loads(reply.text)
        assert document["error"] is True
        assert document["status_code"] == reply.status_code
        return reply.status_code, document["code"]

    return read


@attrs.define(eq=False)
class BatchUser:
    """Work in one session of the plugin, with the jobs of one executor."""

    client: PSIJClient
    executor: str
    notifications: list[Notification]

    async def submit(self, script: str, key: str | None = None, **spec: Any) -> dict[str, Any]:
        job = {"executable": "/bin/sh", "arguments": ["-c", script], **spec}
        return await self.client.submit_job(job, self.executor, key)

    async def until(self, job: dict[str, Any], state: str) -> dict[str, Any]:
        with anyio.fail_after(BATCH_PATIENCE):
            while True:
                status = await self.client.get_job_status(job["job_id"])
                if status["state"] == state:
                    return status
                await anyio.sleep(0.02)

    async def until_over(self, job: dict[str, Any]) -> dict[str, Any]:
        return await self.client.wait_job(job["job_id"], BATCH_PATIENCE)

    def states(self, job: dict[str, Any]) -> list[str]:
        return [
            note.data["state"]
            for note in self.notifications
            if note.topic == "job_status" and note.data["job_id"] == job["job_id"]
        ]


@asynccontextmanager
async def _open_batch_user(
    directory: Path, executor: str, scheduler: str
) -> AsyncIterator[BatchUser]:
    with _unblocked():
        async with (
            open_plugin(TARGET, directory, instance="psij", scheduler=scheduler) as served,
            served.http() as http,
        ):
            client = PSIJClient(http, "/psij")
            await client.register_session(sid="lab", lifetime="persistent")
            yield BatchUser(client, executor, served.notifications)


@pytest.fixture
def open_batch_user() -> Callable[..., AbstractAsyncContextManager[BatchUser]]:
    """Open the plugin beside a scheduler, for a user of one executor."""
    return _open_batch_user


def _change_record(directory: Path, job_id: str, /, **changes: Any) -> None:
    """Write down what was known of a job at another moment."""
    with sqlite3.connect(directory / "state" / "state.sqlite3") as connection:
        place = (JOBS_SPACE, job_id)
        query = "SELECT value FROM documents WHERE space = ? AND key = ?"
        record = json.loads(connection.execute(query, place).fetchone()[0])
        update = "UPDATE documents SET value = ? WHERE space = ? AND key = ?"
        connection.execute(update, (json.dumps({**record, **changes}), *place))
    connection.close()


@pytest.fixture
def change_record() -> Callable[..., None]:
    """Write down in ``directory / "state"`` what was known of a job at another moment."""
    return _change_record


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be patient with schedulers in vain for less long."""
    for name, seconds in {
        "LOOK_INTERVAL": 0.05, "ASK_INTERVAL": 0.2, "ASK_SOON": 0.1, "MARK_PATIENCE": 0.2,
        "CANCELLER_PATIENCE": 0.2, "UNKNOWN_PATIENCE": 0.3, "REASON_PATIENCE": 2.0,
    }.items():  # fmt: skip
        monkeypatch.setattr(f"orbit_psij.batch_watch.{name}", seconds)
    monkeypatch.setattr("orbit_psij.batch_jobs.RETRY_INTERVAL", 0.1)


@attrs.frozen
class Slurm:
    """Be a cluster in a folder, whose commands are on PATH."""

    folder: Path

    def jobs(self) -> dict[str, Any]:
        return dict(fake_slurm.jobs(self.folder))

    def change(self, native_id: str, **changes: Any) -> None:
        fake_slurm.change(self.folder, native_id, **changes)

    def release(self, native_id: str) -> None:
        fake_slurm.release(self.folder, native_id)

    def forget(self, native_id: str) -> None:
        (self.folder / "jobs" / f"{native_id}.json").unlink()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hurry: None) -> Slurm:
    """Put a cluster on PATH."""
    folder = tmp_path / "slurm"
    monkeypatch.setenv("PATH", f"{fake_slurm.install(folder)}:{os.environ['PATH']}")
    return Slurm(folder)
