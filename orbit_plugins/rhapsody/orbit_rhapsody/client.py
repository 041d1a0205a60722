"""Talk to the plugin from afar."""

import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import anyio
import httpx
import msgpack

from orbit_core import PluginClient
from orbit_core.errors import ConnectionLost, GatewayTimeout, Unavailable, UnknownEndpoint

from .errors import BackendFailed, PythonMismatch, SessionInitializing
from .packing import pack_batch, pack_task, sends_pickles
from .values import Pickled, decode, pack, python_version

INIT_TIMEOUT = 120.0
"""Seconds that a session's backends have to start."""

BATCH_TASKS = 4096
BATCH_BYTES = 4 * 1024 * 1024
"""Tasks and bytes that one request carries at most, if one task alone is not larger."""

ASK = 20.0
"""Seconds that one request for the end of tasks stays open."""

AWAY = (Unavailable, GatewayTimeout, UnknownEndpoint)
"""The errors of an endpoint that is away and may come back."""

MSGPACK = "application/msgpack"
RETRY_PAUSE = 0.2


class RhapsodyClient(PluginClient):
    """Run tasks in the session that `register_session` opened.

    Every method raises OrbitError for what the plugin refuses, such as
    `orbit_rhapsody.UnknownTask`, and RuntimeError without a session. Return values that are pickled
    come as `orbit_rhapsody.Pickled`, still closed, unless ``open_pickles`` was said.
    """

    _opens_pickles = False
    _python = ""

    async def register_session(
        self,
        backends: Sequence[str] | None = None,
        init_timeout: float = INIT_TIMEOUT,
        notify_batch_window: float | None = None,
        notify_batch_size: int | None = None,
        *,
        open_pickles: bool = False,
        **session: Any,
    ) -> str:
        """Open a session (or reattach to ``sid=``), and wait until its backends have started.

        ``open_pickles`` says that the endpoint is trusted: what it sends is unpickled, which lets
        it run any code here. Raises BackendFailed, and SessionInitializing after ``init_timeout``
        seconds.
        """
        wanted = {
            "backends": None if backends is None else list(backends),
            "notify_batch_window": notify_batch_window,
            "notify_batch_size": notify_batch_size,
            **session,
        }
        self._opens_pickles = open_pickles
        given = {key: value for key, value in wanted.items() if value is not None}
        sid = await super().register_session(**given)
        await self._until_ready(init_timeout)
        return sid

    async def sibling(self, sid: str) -> "RhapsodyClient":
        """Return a client for another session of the same user, which is open already."""
        found = type(self)(self._http, self._base_url, self._bridge, self._endpoint, self._plugin)
        found._sid = sid
        found._opens_pickles = self._opens_pickles
        await found._until_ready(INIT_TIMEOUT)
        return found

    async def _until_ready(self, timeout: float) -> None:
        give_up = time.monotonic() + timeout
        while True:
            left = give_up - time.monotonic()
            status = await self.session_status(wait=min(ASK, max(0.0, left)))
            if status["status"] == "ready":
                self._python = str(status["python"])
                return
            if status["status"] == "failed":
                raise BackendFailed(f"[{self._endpoint}/{self._plugin}] {status['error']}")
            if left <= 0:
                raise SessionInitializing(f"not ready after {timeout:g} s: {self.sid}")

    async def session_status(self, wait: float = 0.0) -> dict[str, Any]:
        """Return how the session is, after at most ``wait`` seconds if it still initialises."""
        route = f"session_status/{self._require_session()}"
        return dict(await self.get(route, wait=int(wait + 0.999)))

    @property
    def python(self) -> str:
        """Return the minor version of the endpoint's Python, such as ``3.11``."""
        return self._python

    async def submit_tasks(self, tasks: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Have tasks run, and return the ``uid`` and ``state`` of each.

        A task is what RHAPSODY's ``ComputeTask`` or ``AITask`` takes; ``function`` may be a
        function or its import path ``module:name``. A uid is made for a task that has none.

        Raises NotPicklable and PythonMismatch before anything is sent.
        """
        packed = [pack_task(task) for task in tasks]
        if any(map(sends_pickles, packed)):
            self.check_python()
        found = []
        for batch in _batches(packed):
            found += await self.submit_packed(pack_batch(batch))
        return found

    def check_python(self) -> None:
        """Raise PythonMismatch if pickled functions would not fit the endpoint's Python."""
        if self._python != python_version():
            raise PythonMismatch(
                f"functions cannot be sent from Python {python_version()} to endpoint "
                f"{self._endpoint}, which has Python {self._python}: use the same minor version "
                "here, or name functions by their import path"
            )

    async def submit_packed(self, batch: bytes, key: str | None = None) -> Any:
        """Send tasks that are packed already; the same ``key`` has the same tasks run once.

        With a ``key`` the answer is no more than how many were accepted.
        """
        route = f"submit/{self._require_session()}"
        headers = {"Idempotency-Key": key or uuid.uuid4().hex, "Content-Type": MSGPACK}
        if key is not None:
            headers["Prefer"] = "return=minimal"
        return (await self._exchange(route, batch, headers)).json()

    async def feed(self, submits: AsyncIterator[bytes]) -> None:
        """Send submits as they come, each the msgpack of a pair: its key and its packed tasks.

        `results` says ``{"accepted": key}`` or ``{"declined": key}``, or nothing where it begins
        anew meanwhile: `submit_packed` with the same key finds out.
        """
        route = f"feed/{self._require_session()}"
        await self._exchange(route, submits, {"Content-Type": MSGPACK})

    async def wait_tasks(
        self, tasks: Iterable[Any], timeout: float | None = None
    ) -> list[dict[str, Any]]:
        """Wait for the end of tasks, and return each with its result, in their order.

        ``tasks`` are uids, or objects or mappings with one. After ``timeout`` seconds tasks are
        returned as they are then; nothing is cancelled. A restart of the endpoint is waited out.
        """
        uids = [_uid(task) for task in tasks]
        found: dict[str, dict[str, Any]] = {}
        give_up = None if timeout is None else time.monotonic() + timeout
        for start in range(0, len(uids), BATCH_TASKS):
            await self._collect(uids[start : start + BATCH_TASKS], found, give_up)
        return [found[uid] for uid in uids]

    async def _collect(
        self, uids: list[str], found: dict[str, dict[str, Any]], give_up: float | None
    ) -> None:
        missing = uids
        while missing:
            left = ASK if give_up is None else max(0.0, give_up - time.monotonic())
            try:
                results = await self.find(missing, min(ASK, left))
            except AWAY:
                if left <= 0:
                    raise
                await anyio.sleep(RETRY_PAUSE)
                continue
            found.update({result["uid"]: self.opened(result) for result in results})
            missing = [uid for uid in missing if found[uid]["state"] in ("PENDING", "RUNNING")]
            if left <= 0:
                return

    async def find(self, uids: list[str], timeout: float = 0.0) -> list[dict[str, Any]]:
        """Return tasks as they travel, once all are over or ``timeout`` seconds have passed."""
        body = {"uids": uids, "timeout": timeout}
        route = f"wait/{self._require_session()}"
        response = await self._exchange(route, None, {"Accept": MSGPACK}, json=body)
        return list(msgpack.unpackb(response.content))

    async def results(self, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        """Yield the session's results as they come, those numbered up to ``after`` left out.

        A map ``{"running": [uid]}`` between them names tasks that have begun, and others tell what
        became of what was sent with `feed`. It ends when the connection does; the number of each
        result is its ``seq``.
        """
        unpacker = msgpack.Unpacker(max_buffer_size=0)
        route = f"results/{self._require_session()}"
        async with aclosing(self.stream(route, after=after)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                unpacker.feed(chunk)
                for result in unpacker:
                    if result is not None:
                        yield result

    async def list_tasks(self) -> list[dict[str, Any]]:
        """Return the session's tasks without their results, oldest first."""
        return list((await self.get(f"list_tasks/{self._require_session()}"))["tasks"])

    async def get_task(self, uid: str) -> dict[str, Any]:
        """Return a task, with its result if it is over."""
        return self.opened(dict(await self.get(f"task/{self._require_session()}/{uid}")))

    async def cancel_task(self, uid: str) -> dict[str, Any]:
        """Cancel a task, and return when its processes are gone."""
        return dict(await self.post(f"cancel/{self._require_session()}/{uid}"))

    async def cancel_all_tasks(self, uids: Iterable[str] | None = None) -> int:
        """Cancel the tasks that are not over, or those of ``uids``; return how many."""
        body = None if uids is None else {"uids": list(uids)}
        return int((await self.post(f"cancel_all/{self._require_session()}", body))["canceled"])

    async def statistics(self) -> dict[str, Any]:
        """Return counts by state and backend, rate and mean times."""
        return dict(await self.get(f"statistics/{self._require_session()}"))

    def opened(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return a result with its value decoded; pickles stay closed unless that was said."""
        value = decode(result)
        if isinstance(value, Pickled) and self._opens_pickles:
            value = value.open()
        found = {key: result[key] for key in result if key not in _ENCODED}
        return {**found, "return_value": value} if "return_value" in result else found

    async def _exchange(
        self,
        route: str,
        content: bytes | AsyncIterator[bytes] | None,
        headers: dict[str, str],
        json: Any = None,
    ) -> httpx.Response:
        try:
            response = await self._http.post(
                self._url(route), content=content, json=json, headers=headers
            )
        except httpx.TransportError as error:
            raise ConnectionLost(f"the connection broke: {error}") from error
        if response.status_code >= 400:
            self._raise(response, f"POST {route}")
        return response


_ENCODED = frozenset({"return_value", "_return_value_encoding", "return_preview", "_exception"})


def _uid(task: Any) -> str:
    uid = task if isinstance(task, str) else getattr(task, "uid", None)
    if uid is None and isinstance(task, Mapping):
        uid = task.get("uid")
    if not isinstance(uid, str):
        raise TypeError(f"expected a uid, or a task with one, got a {type(task).__name__}")
    return uid


def _batches(tasks: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Divide tasks so that no request grows too large; the largest part of a task is its bytes."""
    batch: list[dict[str, Any]] = []
    size = 0
    for task in tasks:
        added = sum(map(_size, task.values()))
        if batch and (len(batch) == BATCH_TASKS or size + added > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(task)
        size += added
    if batch:
        yield batch


def _size(value: object) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    return len(pack(value)) if isinstance(value, list | dict) else 8
