import importlib.util
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs
import httpx
import msgpack
import orbit_rhapsody.plugin  # noqa: F401  # what importing RHAPSODY reads is no fault of a loop
import psutil
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from blockbuster import blockbuster_ctx

from orbit_core.models import Notification, Principal
from orbit_core.testing import ALICE, PluginUnderTest, open_plugin

TARGET = "orbit_rhapsody.plugin:RhapsodyPlugin"
PATIENCE = 30.0

collect_ignore = [] if importlib.util.find_spec("dragon") else ["test_rhapsody_dragon.py"]


@attrs.define(eq=False)
class User:
    """Work in one session of the plugin, over its HTTP routes."""

    http: httpx.AsyncClient
    sid: str
    notifications: list[Notification]
    served: PluginUnderTest

    async def post(self, route: str, body: Any = None, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        content = b"" if body is None else json.dumps(body).encode()
        return await self.http.post(f"/rhapsody/{route}", content=content, headers=names)

    async def get(self, route: str) -> httpx.Response:
        return await self.http.get(f"/rhapsody/{route}")

    async def until_ready(self) -> dict[str, Any]:
        reply = await self.get(f"session_status/{self.sid}?wait=30")
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    async def try_submit(self, *tasks: dict[str, Any], **headers: str) -> httpx.Response:
        return await self.post(f"submit/{self.sid}", {"tasks": list(tasks)}, **headers)

    async def pack_submit(self, body: Any, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        names["Content-Type"] = "application/msgpack"
        content = msgpack.packb(body)
        return await self.http.post(f"/rhapsody/submit/{self.sid}", content=content, headers=names)

    async def submit(self, *tasks: dict[str, Any]) -> list[str]:
        reply = await self.try_submit(*tasks)
        assert reply.status_code == 200, reply.text
        return [task["uid"] for task in reply.json()]

    async def wait(self, *uids: str, timeout: float = PATIENCE) -> list[dict[str, Any]]:
        reply = await self.post(f"wait/{self.sid}", {"uids": list(uids), "timeout": timeout})
        assert reply.status_code == 200, reply.text
        return list(reply.json())

    async def run(self, **task: Any) -> dict[str, Any]:
        (uid,) = await self.submit({"uid": f"t{len(self.notifications)}.{id(task)}", **task})
        (found,) = await self.wait(uid)
        return found

    async def task(self, uid: str) -> dict[str, Any]:
        reply = await self.get(f"task/{self.sid}/{uid}")
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def heard(self, topic: str) -> list[Any]:
        return [note.data for note in self.notifications if note.topic == topic]

    def done(self) -> list[dict[str, Any]]:
        """Return what was notified of tasks that are done."""
        batches = [note["tasks"] for note in self.heard("task_status_batch")]
        told = [*self.heard("task_status"), *(task for batch in batches for task in batch)]
        return [task for task in told if task["state"] == "DONE"]

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(PATIENCE):
            while not condition():
                await anyio.sleep(0.01)


Opener = Callable[..., AbstractAsyncContextManager[User]]


@asynccontextmanager
async def _open(
    directory: Path,
    sid: str = "lab",
    principal: Principal = ALICE,
    settings: dict[str, Any] | None = None,
    *,
    ready: bool = True,
    **session: Any,
) -> AsyncIterator[User]:
    with blockbuster_ctx("orbit_rhapsody") as found:
        # What measures coverage has a lock of its own, which the threads of many files hold, too.
        found.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
        for function in found.functions.values():  # RHAPSODY itself makes folders there
            function.can_block_in("orbit_rhapsody/backends.py", "start_backend")
        async with open_plugin(TARGET, directory, instance="rhapsody", settings=settings) as served:
            assert served.status.state == "served", served.status
            async with served.http(principal) as http:
                body = {"sid": sid, "lifetime": "persistent", **session}
                reply = await http.post("/rhapsody/register_session", json=body)
                assert reply.status_code == 200, reply.text
                assert reply.json() == {"sid": sid, "status": "initializing"}
                user = User(http, sid, served.notifications, served)
                if ready:
                    assert (await user.until_ready())["status"] == "ready"
                yield user


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def open_user() -> Opener:
    """Open the plugin with its state in a directory, as a user with a lasting session."""
    return _open


@pytest.fixture
async def user(tmp_path: Path) -> AsyncIterator[User]:
    async with _open(tmp_path, backends=["concurrent"]) as found:
        yield found


@pytest.fixture
def fault() -> Callable[[httpx.Response], tuple[int, str]]:
    """Return status and code of an error reply, after a look at its form."""

    def read(reply: httpx.Response) -> tuple[int, str]:
        document = reply.json()
        assert document["error"] is True
        assert document["status_code"] == reply.status_code
        return reply.status_code, document["code"]

    return read


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def _read_line(path: Path) -> str:
    with anyio.fail_after(PATIENCE):
        while not path.exists() or not path.read_text().endswith("\n"):
            await anyio.sleep(0.01)
    return path.read_text()


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    """Tell whether a process is there and no zombie."""
    return _is_alive


@pytest.fixture
def read_line() -> Callable[[Path], Awaitable[str]]:
    """Return what a process has written to a file, once there is a whole line."""
    return _read_line


class CuttingProxy:
    """Pass bytes on to a port of this host."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._scopes: set[anyio.CancelScope] = set()
        self.passed = 0
        self.port = 0

    def cut(self) -> None:
        """Cut every connection there is at present."""
        for scope in list(self._scopes):
            scope.cancel()

    async def serve(self, near: SocketStream) -> None:
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                async with (
                    near,
                    await anyio.connect_tcp("127.0.0.1", self._target) as far,
                    anyio.create_task_group() as group,
                ):
                    group.start_soon(self._pass, near, far, scope)
                    group.start_soon(self._pass, far, near, scope)
            except (OSError, anyio.BrokenResourceError):
                pass
            finally:
                self._scopes.discard(scope)

    async def _pass(self, source: ByteStream, sink: ByteStream, scope: anyio.CancelScope) -> None:
        try:
            async for part in source:
                self.passed += len(part)
                await sink.send(part)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def _open_proxy(target: int) -> AsyncIterator[CuttingProxy]:
    """Run a proxy on a free port while the context is open."""
    proxy = CuttingProxy(target)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        proxy.port = listener.extra(SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, proxy.serve)
            yield proxy
            group.cancel_scope.cancel()


@pytest.fixture
def open_proxy() -> Callable[[int], AbstractAsyncContextManager[CuttingProxy]]:
    """Stand between a client and a server, and cut every connection when asked to."""
    return _open_proxy
