"""Hold what both executors are: an open session, and channels to it and to earlier ones."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self
from weakref import WeakKeyDictionary

import anyio
import attrs

from orbit_core import AsyncBridgeClient
from orbit_core.errors import OrbitError, UnknownRoute

from .channel import Channel
from .client import RhapsodyClient
from .futures import Settled
from .packing import Function, is_importable, is_self_contained, pack_function, sends_pickles

PATIENCE = 600.0
"""Seconds after which an endpoint that is away is given up, and with it the calls it has."""

LIFETIME = 14 * 24 * 3600.0
"""Seconds for which an executor's session outlives a client that died."""


CLOSE_TIMEOUT = 10.0
"""Seconds that closing a session may take."""

_PARTS = ("function", "args", "kwargs", "calls")
_ATOM = 8


@attrs.frozen
class Target:
    """Say where calls go, and how."""

    url: str | None = None
    endpoint: str | None = None
    cert: str | Path | None = None
    token: str | None = None
    backends: Sequence[str] | None = None
    plugin: str = "rhapsody"
    patience: float = PATIENCE


class Connection:
    """Pack calls and push them into a channel; `submit` serves any thread."""

    def __init__(self, target: Target) -> None:
        """Name the target; entering connects to it."""
        self._target = target
        self._stack = AsyncExitStack()
        self._group = anyio.create_task_group()
        self._functions: WeakKeyDictionary[Any, str | bytes] = WeakKeyDictionary()
        self._channels: dict[str, Channel] = {}
        self._reloading = anyio.Lock()
        self._bridge: AsyncBridgeClient
        self.client: RhapsodyClient
        self.channel: Channel

    async def __aenter__(self) -> Self:
        """Connect, and open a session. Raises OrbitError."""
        target = self._target
        try:
            bridge = AsyncBridgeClient(target.url, target.cert, target.token)
            self._bridge = await self._stack.enter_async_context(bridge)
            if target.endpoint is None:
                raise UnknownRoute("name the endpoint on which calls are to run")
            client = await self._bridge.get_endpoint_client(target.endpoint).get_plugin(
                target.plugin,
                backends=target.backends,
                notify_tasks=False,
                lifetime="ttl",
                ttl=LIFETIME,
            )
            if not isinstance(client, RhapsodyClient):
                raise UnknownRoute(f"{target.endpoint}/{target.plugin} runs no tasks")
            self.client = client
            await self._group.__aenter__()
            self.channel = self._open(client)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        """Disconnect; a session whose calls are all over is closed, another one lives on."""
        is_over = not self.channel.pending()
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)
        if is_over:
            with suppress(OrbitError), anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await self.client.unregister_session()
        await self._stack.aclose()

    def _open(self, client: RhapsodyClient) -> Channel:
        channel = Channel(client, self._target.patience)
        channel.start(self._group)
        self._channels[str(client.sid)] = channel
        return channel

    def pending(self) -> list[Settled]:
        """Return the futures that are not settled."""
        return [future for channel in self._channels.values() for future in channel.pending()]

    async def until_over(self) -> None:
        """Wait until every future is settled."""
        for channel in self._channels.values():
            await channel.until_over()

    async def flush(self) -> None:
        """Wait until the endpoint has every call so far on its disk, or has refused it."""
        await self.channel.until_sent()

    def pack(self, function: Function) -> str | bytes:
        """Return what travels of a function. Raises NotPicklable, PythonMismatch."""
        try:
            known = self._functions.get(function)
        except TypeError:  # it is not hashable, or no weak reference can be made to it
            return self._packed(function)
        if known is None:
            known = self._packed(function)
            if is_importable(function) or is_self_contained(function):
                self._functions[function] = known
        return known

    def _packed(self, function: Function) -> str | bytes:
        packed = pack_function(function)
        if isinstance(packed, bytes):
            self.client.check_python()
        return packed

    def submit(
        self,
        packed: str | bytes,
        task: dict[str, Any],
        make_future: Callable[[str, Callable[[str], None]], Any],
    ) -> Any:
        """Have a function called with the packed arguments in ``task``, and return its future."""
        if isinstance(packed, bytes):
            task["_pickled_fields"] = [*task.get("_pickled_fields", ()), "function"]
        elif sends_pickles(task):
            self.client.check_python()
        channel = self.channel
        task["uid"] = uid = channel.new_uid()
        task["function"] = packed
        future = make_future(uid, channel.cancel)
        channel.push(task, _size(task), future)
        return future

    async def reload(
        self, uids: Sequence[str], make_future: Callable[[str, Callable[[str], None]], Any]
    ) -> list[Any]:
        """Return futures of calls that any process of the same user submitted. Raises OrbitError.

        A uid whose result is no more, or that never was, has that as its future's exception.
        """
        by_session: dict[str, list[str]] = {}
        for uid in uids:
            by_session.setdefault(uid.partition(":")[0], []).append(uid)
        futures: dict[str, Any] = {}
        for sid, found in by_session.items():
            channel = await self._channel_of(sid)
            futures.update({uid: channel.future(uid) for uid in found})
            missing = [uid for uid in found if futures[uid] is None]
            for uid in missing:
                futures[uid] = make_future(uid, channel.cancel)
                channel.expect(futures[uid])
            await channel.reload(missing)
        return [futures[uid] for uid in uids]

    async def _channel_of(self, sid: str) -> Channel:
        async with self._reloading:
            if sid not in self._channels:
                self._open(await self.client.sibling(sid))
            return self._channels[sid]


def _size(task: dict[str, Any]) -> int:
    """Estimate the bytes of a task: those of the parts that may be large."""
    return sum(_bytes(task[part]) for part in _PARTS if part in task)


def _bytes(value: Any, depth: int = 3) -> int:
    kind = type(value)
    if kind is bytes or kind is str:
        return len(value)
    if not depth or (kind is not list and kind is not dict):
        return _ATOM
    size = _ATOM
    for item in value if kind is list else value.values():
        size += _bytes(item, depth - 1)
    return size
