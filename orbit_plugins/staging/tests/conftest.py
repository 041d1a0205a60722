import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import orbit_staging.plugin  # here, since an import reads files, which blocks
import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from orbit_core.models import Principal
from orbit_core.testing import ALICE, Deployment, PluginUnderTest, open_deployment, open_plugin

TARGET = f"{orbit_staging.plugin.__name__}:StagingPlugin"


@attrs.define(eq=False)
class User:
    """Work in one session of the plugin, over its HTTP routes."""

    http: httpx.AsyncClient
    sid: str
    served: PluginUnderTest

    @property
    def plugin(self) -> Any:
        return self.served.plugin

    @property
    def folder(self) -> Path:
        """Return the session's own directory."""
        return Path(self.plugin.folders.folder(self.sid)) / "files"

    @property
    def uploads(self) -> list[str]:
        """Return the names of the files that have not become visible."""
        return [path.name for path in self.folder.with_name("uploads").iterdir()]

    def as_other(self, principal: Principal, sid: str) -> "User":
        """Return another caller of the same plugin."""
        return User(self.served.http(principal), sid, self.served)

    async def register(self) -> None:
        body = {"sid": self.sid, "lifetime": "persistent"}
        reply = await self.http.post("/staging/register_session", json=body)
        assert reply.status_code == 200, reply.text

    async def ask(self, route: str, **body: Any) -> httpx.Response:
        return await self.http.post(f"/staging/{route}/{self.sid}", json=body)

    async def done(self, route: str, **body: Any) -> dict[str, Any]:
        reply = await self.ask(route, **body)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    async def send(
        self, path: str, content: Any, headers: dict[str, str] | None = None, **query: Any
    ) -> httpx.Response:
        url = f"/staging/files/{self.sid}/{path}"
        return await self.http.put(url, content=content, params=query, headers=headers)

    async def read(self, path: str, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.get(f"/staging/files/{self.sid}/{path}", headers=named)


Opener = Callable[..., AbstractAsyncContextManager[User]]


@asynccontextmanager
async def _open(
    state: Path, /, sid: str = "lab", principal: Principal = ALICE, **settings: Any
) -> AsyncIterator[User]:
    async with open_plugin(TARGET, state, instance="staging", settings=settings) as served:
        assert served.status.state == "served", served.status
        user = User(served.http(principal), sid, served)
        await user.register()
        yield user
        await user.http.aclose()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail a test in which this plugin blocks the loop."""
    with blockbuster_ctx("orbit_staging") as found:
        # What measures coverage has a lock of its own, which the threads of many files hold, too.
        found.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
        yield found


@pytest.fixture
def open_user() -> Opener:
    """Open the plugin with its state in a directory, as a user with a lasting session."""
    return _open


@pytest.fixture
async def user(tmp_path: Path) -> AsyncIterator[User]:
    async with _open(tmp_path) as found:
        yield found


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    async with open_deployment(tmp_path / "state", plugins={"a": [TARGET], "b": [TARGET]}) as found:
        yield found


@pytest.fixture
def fault() -> Callable[[httpx.Response], tuple[int, str]]:
    """Return status and code of an error reply, after a look at its form."""

    def read(reply: httpx.Response) -> tuple[int, str]:
        document = reply.json()
        assert document["error"] is True, document
        assert document["status_code"] == reply.status_code
        return reply.status_code, document["code"]

    return read


@pytest.fixture
def sha256() -> Callable[[bytes], str]:
    return lambda content: hashlib.sha256(content).hexdigest()
