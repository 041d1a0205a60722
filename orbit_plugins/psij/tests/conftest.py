import json
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs
import httpx
import orbit_psij.plugin  # here, since an import reads files, which blocks
import pytest
from blockbuster import blockbuster_ctx

from orbit_core.models import Notification, Principal
from orbit_core.testing import ALICE, PluginUnderTest, open_plugin

TARGET = f"{orbit_psij.plugin.__name__}:PSIJPlugin"
PATIENCE = 20.0


def pytest_configure(config: pytest.Config) -> None:
    """Bear with PSI/J, which leaves the pipe of each local job to the garbage collector."""
    pipe = "unclosed file <_io.BufferedReader"
    config.addinivalue_line("filterwarnings", f"ignore:{pipe}:ResourceWarning")
    warnings.filterwarnings("ignore", pipe, ResourceWarning)  # between and after the tests


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

    async def until_prints(self, job_id: str, text: str) -> dict[str, Any]:
        return await self.until(job_id, lambda found: text in found["stdout"])

    def heard(self, job_id: str) -> list[dict[str, Any]]:
        return [
            note.data
            for note in self.notifications
            if note.topic == "job_status" and note.data["job_id"] == job_id
        ]


Opener = Callable[..., AbstractAsyncContextManager[User]]


@asynccontextmanager
async def _open(
    directory: Path, sid: str = "lab", principal: Principal = ALICE, **settings: Any
) -> AsyncIterator[User]:
    with blockbuster_ctx("orbit_psij"):
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
def fault() -> Callable[[httpx.Response], tuple[int, str]]:
    """Return status and code of an error reply, after a look at its form."""

    def read(reply: httpx.Response) -> tuple[int, str]:
        document = json.loads(reply.text)
        assert document["error"] is True
        assert document["status_code"] == reply.status_code
        return reply.status_code, document["code"]

    return read
