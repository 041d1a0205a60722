"""Serve tasks on an endpoint."""

import inspect
from typing import Any, ClassVar
from weakref import WeakSet

import anyio
import msgpack
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from orbit_core import HostInfo, HostRole, Plugin, hookimpl
from orbit_core.context import PluginContext
from orbit_core.errors import ConfigError, InvalidBody
from orbit_core.models import UIConfig
from orbit_core.web import integer_parameter, json_body, read_body

from .models import BACKENDS, Cancelled, Opened, SessionStatus, Statistics
from .options import SessionOptions
from .portal import UI
from .values import for_json

try:
    from .engine import Engine
    from .session import RhapsodySession
except ModuleNotFoundError as error:
    raise ConfigError(
        f"{error.name} is not installed here: pip install 'orbit-rhapsody[endpoint]'"
    ) from error

LONGEST_WAIT = 60.0
"""Seconds that one request waits at most."""

FEED_LIMIT, FEED_CALLS, FEED_KEY = 256 * 1024, 64, 64
"""Of a request that goes on: bytes of a submit, submits that wait for the disk, bytes of a key."""

MSGPACK = "application/msgpack"


class RhapsodyPlugin(Plugin):
    """Run tasks and functions through RHAPSODY (https://pypi.org/project/rhapsody-py/)."""

    plugin_name: ClassVar[str] = "rhapsody"
    session_class = RhapsodySession
    version: ClassVar[str] = "0.1.0"
    ui_config: ClassVar[UIConfig | dict[str, Any] | None] = UI
    engine: Engine

    def __init__(self, context: PluginContext, instance_name: str | None = None) -> None:
        """Declare the routes."""
        super().__init__(context, instance_name)
        self._live: WeakSet[RhapsodySession] = WeakSet()
        self.add_route_get("session_status/{sid}", self._session_status)
        self.add_route_post("submit/{sid}", self._submit)
        self.add_route_post("feed/{sid}", self._feed)
        self.add_route_post("wait/{sid}", self._wait)
        self.add_route_get("results/{sid}", self._results)
        self.add_route_get("list_tasks/{sid}", self._list_tasks)
        self.add_route_get("task/{sid}/{uid}", self._task)
        self.add_route_post("cancel/{sid}/{uid}", self._cancel)
        self.add_route_post("cancel_all/{sid}", self._cancel_all)
        self.add_route_get("statistics/{sid}", self._statistics)
        self.add_route_get("backends", self._backends)

    @classmethod
    @hookimpl
    def is_enabled(cls, host: HostInfo) -> bool:
        """Serve where work may run: neither on a login node nor on the bridge."""
        return host.role in (HostRole.COMPUTE, HostRole.STANDALONE)

    def busy_sessions(self) -> list[str]:
        """Return the sessions that have a task which is not over, or whose results are followed."""
        return [session.sid for session in self._live if session.is_busy]

    async def start(self) -> None:
        """Read the tasks of before."""
        self.engine = Engine(self.context)
        await self.engine.open()

    async def stop(self) -> None:
        """End the tasks that run: they cannot go on without the endpoint."""
        await super().stop()
        await self.engine.close()

    def _create_session(self, sid: str, **settings: Any) -> RhapsodySession:
        fixed = (self.engine, self.context.background)
        try:
            inspect.signature(RhapsodySession).bind(sid, *fixed, **settings)
            options = {key: settings[key] for key in settings if key != "backends"}
            inspect.signature(SessionOptions).bind(**options)
        except TypeError as error:
            raise InvalidBody(f"this plugin's sessions do not take that: {error}") from None
        session = RhapsodySession(sid, *fixed, **settings)
        self._live.add(session)
        return session

    async def _register_session(self, request: Request) -> Opened:
        """Open a session, whose backends start meanwhile, or reattach to the one of ``sid``."""
        return Opened((await super()._register_session(request)).sid)

    async def _session_status(self, request: Request) -> SessionStatus:
        """Tell whether a session is ready; with ``wait``, after at most so many seconds."""
        session: RhapsodySession = await self.session(request)
        return await session.status(min(LONGEST_WAIT, integer_parameter(request, "wait")))

    async def _submit(self, request: Request) -> Any:
        """Run tasks: ``{"tasks": [...]}``, or a ``template`` with ``uids`` or with ``tasks``.

        With ``Prefer: return=minimal`` (RFC 7240) the answer says how many only.
        """
        session: RhapsodySession = await self.session(request)
        limit = self.engine.settings.submit_limit
        raw = await read_body(request, limit)
        is_packed = request.headers.get("content-type") == MSGPACK
        body = None if is_packed else await json_body(request, limit)
        key = request.headers.get("Idempotency-Key")
        states = await session.submit(raw, _unpack if is_packed else lambda _: body, key)
        if request.headers.get("prefer") == "return=minimal":
            return {"accepted": len(states)}
        return [{"uid": uid, "state": state} for uid, state in states.items()]

    async def _feed(self, request: Request) -> dict[str, int]:
        """Run tasks as they come, until the request ends: msgpack pairs of a key and a ``submit``.

        ``results`` says ``{"accepted": key}`` or ``{"declined": key}`` to who follows at the time.
        A ``submit`` with that key tells why, or does it once.
        """
        session: RhapsodySession = await self.session(request)
        unpacker = _unpacker(min(FEED_LIMIT, self.engine.settings.submit_limit))
        room = anyio.Semaphore(FEED_CALLS, fast_acquire=True)
        count = 0
        async for chunk in request.stream():
            for key, body in _pairs(unpacker, chunk):
                session = await self.session(request)
                await room.acquire()
                await session.take(body, _unpack, key, room.release)
                count += 1
        return {"taken": count}

    async def _wait(self, request: Request) -> Any:
        """Return tasks, at once or, with ``timeout``, when they are over, in JSON or msgpack."""
        session: RhapsodySession = await self.session(request)
        body = await json_body(request)
        uids, timeout = _uids(body.get("uids")), body.get("timeout") or 0
        if type(timeout) not in (int, float) or not timeout >= 0:
            raise InvalidBody("timeout must be a number of seconds")
        bodies = await session.wait(uids, min(LONGEST_WAIT, timeout))
        if request.headers.get("accept") == MSGPACK:
            head = msgpack.Packer().pack_array_header(len(bodies))
            return Response(head + b"".join(bodies), media_type=MSGPACK)
        return [for_json(msgpack.unpackb(found)) for found in bodies]

    async def _results(self, request: Request) -> StreamingResponse:
        """Stream results as msgpack, those numbered after ``after``, and then each as it comes."""
        session: RhapsodySession = await self.session(request)
        parts = session.results(integer_parameter(request, "after"))
        return StreamingResponse(parts, media_type=MSGPACK)

    async def _list_tasks(self, request: Request) -> dict[str, Any]:
        """List the session's tasks, without their results."""
        session: RhapsodySession = await self.session(request)
        return {"tasks": await session.list_tasks()}

    async def _task(self, request: Request) -> dict[str, Any]:
        """Return one task, with its result if it is over."""
        session: RhapsodySession = await self.session(request)
        return for_json(await session.task(request.path_params["uid"]))

    async def _cancel(self, request: Request) -> Cancelled:
        """Cancel a task, and answer when its processes are gone."""
        session: RhapsodySession = await self.session(request)
        return await session.cancel(request.path_params["uid"])

    async def _cancel_all(self, request: Request) -> dict[str, int]:
        """Cancel the tasks that are not over, or those of ``uids``."""
        session: RhapsodySession = await self.session(request)
        uids = (await json_body(request)).get("uids")
        return {"canceled": await session.cancel_all(None if uids is None else _uids(uids))}

    async def _statistics(self, request: Request) -> Statistics:
        """Count the session's tasks, by state and backend."""
        session: RhapsodySession = await self.session(request)
        return session.statistics()

    async def _backends(self, request: Request) -> dict[str, Any]:
        """List the backends that a session may ask for."""
        offered = self.engine.settings.backends or BACKENDS
        return {"backends": [{"name": name} for name in offered]}


def _uids(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(uid, str) for uid in value):
        raise InvalidBody("uids must be a list of texts")
    return value


def _unpacker(limit: int) -> msgpack.Unpacker:
    """Return what unpacks pairs with bodies of up to ``limit`` bytes, and makes nothing larger."""
    return msgpack.Unpacker(
        max_buffer_size=2 * FEED_LIMIT,  # a body, and what came with its end
        max_array_len=2,
        max_str_len=FEED_KEY,
        max_bin_len=limit,
        max_map_len=0,
        max_ext_len=0,
    )


def _pairs(unpacker: msgpack.Unpacker, chunk: bytes) -> list[tuple[str, bytes]]:
    """Return the keys and bodies that are whole with another chunk. Raises InvalidBody."""
    try:
        unpacker.feed(chunk)
        found = list(unpacker)
    except (ValueError, msgpack.UnpackException) as error:
        raise InvalidBody(f"this is no msgpack, or more than is taken: {error!r}") from None
    for pair in found:
        if not (isinstance(pair, list) and list(map(type, pair)) == [str, bytes]):
            raise InvalidBody("what comes must be pairs of a key, a text, and a body, bytes")
    return found


def _unpack(raw: bytes) -> Any:
    try:
        return msgpack.unpackb(raw)
    except Exception as error:  # noqa: BLE001  # its decoder raises many kinds
        raise InvalidBody(f"the body is not msgpack: {error}") from None
