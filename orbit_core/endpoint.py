"""Run on an HPC host: host plugins, dial out to the bridge, and stay linked to it."""

import logging
import math
import socket
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import anyio
import anyio.to_thread

from ._codec import from_wire, to_data
from ._dial import Answer, Credentials, pause, socket_url
from ._frames import Kind, ProtocolError, pack_value, unpack_map
from ._hello import Hello
from ._host import PluginHost, open_host
from ._hub import Hub, expire_calls
from ._link import Link
from ._tasks import LightTasks, Starter, open_tasks
from ._tls import trust
from ._wire_events import pack_event
from .config import (
    Access,
    ClientConfig,
    EndpointConfig,
    read_secret,
    resolve_access,
    state_home,
    write_private,
)
from .errors import (
    ConnectionLost,
    Forbidden,
    InvalidBody,
    NameInUse,
    NoRoute,
    OrbitError,
    Unauthorized,
    UnknownRoute,
)
from .hookspecs import hookimpl
from .models import RESERVED_NAMES, EndpointInfo, HostInfo, Notification, Topology, check_name
from .ways.reach import Reach

logger = logging.getLogger(__name__)

NAME_PATIENCE = 20.0
"""Seconds for which a name in use is asked for again: its dead holder is forgotten by then."""

FLUSH_TIMEOUT = 1.0

STABLE = 5.0
"""Seconds that a link must last for the waits between attempts to begin anew."""


class Uplink:
    """Send the notifications published here up the link."""

    def __init__(self, link: Link) -> None:
        """Send over ``link``."""
        self._link = link

    @hookimpl
    def notify(self, notification: Notification) -> None:
        """Send one; it is dropped, visibly by its number, only if megabytes wait already."""
        if not self._link.send_event(pack_event(notification)):
            logger.warning("a notification of %s was dropped: too many wait", notification.plugin)


class Endpoint:
    """Be one endpoint: its plugins, its link and its view of the topology."""

    def __init__(
        self, name: str, access: Access, host: PluginHost, calls: Starter, *, config: EndpointConfig
    ) -> None:
        """Belong to the bridge that ``access`` names; `open_endpoint` makes one."""
        self.name = name
        self.shared = config.shared
        self._reach = Reach.of(name, access, config)
        self.access = access
        self.host = host
        self.topology = Topology()
        self.linked = anyio.Event()
        self.stopped = anyio.Event()
        self.fatal: OrbitError | None = None
        self._process = uuid.uuid4().hex
        self._key_file = host.store.path.parent / "resume.key"
        self._resume_key: str | None = None
        self._version = ""
        self._started = time.monotonic()
        self._has_linked = False
        self._up_since = math.inf
        self._answered = ""
        self.link = Link(self._serve, calls, self._hear, first_id=1)
        self.hub = Hub(self.link)
        self._site = host.site()

    async def prepare(self) -> None:
        """Read the version, and the key that takes the name back from the process of before."""
        self._version = await anyio.to_thread.run_sync(version, "orbit-core")
        if await anyio.Path(self._key_file).exists():
            self._resume_key = await anyio.Path(self._key_file).read_text()

    def open_site(self) -> None:
        """Begin to serve the plugins that are loaded by now."""
        self._site = self.host.site()

    async def stay_linked(self) -> None:
        """Keep the link up until told to leave, or until `fatal` is set."""
        failures = 0
        while not self.stopped.is_set():
            asked = 0.0
            self._up_since = math.inf
            try:
                await self._link_once()
                self._answered = ""
                logger.warning("the link to %s broke: dialing again", self.access.url)
            except OrbitError as error:
                if self._is_fatal(error):
                    self.fail(error)
                    return
                asked = error.retry_after or 0.0
                self._tell(error)
            failures = 0 if time.monotonic() - self._up_since > STABLE else failures + 1
            with anyio.move_on_after(pause(failures, asked)):
                await self.stopped.wait()

    def _tell(self, error: OrbitError) -> None:
        """Log why there is no link; what answers in place of the bridge is told once."""
        is_known = error.detail == self._answered
        self._answered = error.detail if isinstance(error, (NoRoute, UnknownRoute)) else ""
        logger.log(logging.DEBUG if is_known else logging.WARNING, "%s: trying again", error.detail)

    async def leave(self) -> None:
        """Tell the bridge that this endpoint goes, so that nobody waits for it."""
        with anyio.move_on_after(FLUSH_TIMEOUT):
            self.link.send(Kind.SHUTDOWN, 0, pack_value({"reason": "stopped"}))
            await self.link.flush()

    def fail(self, error: OrbitError) -> None:
        """Stop for good, for a reason."""
        self.fatal = error
        self.stopped.set()

    async def _link_once(self) -> None:
        if self.link.is_broken:  # what the bridge remembers of it is no use either
            self._process = uuid.uuid4().hex
        credentials = Credentials(self.name, self._process, self._resume_key, self.link.received)
        async with self._reach.link(self.access, credentials) as (dialed, answer):
            self._up_since = time.monotonic()
            await self._remember(answer.resume_key)
            received = self._resume(answer)
            await self.link.run(dialed, received)

    def _resume(self, answer: Answer) -> int:
        """Go on with the link if the bridge does, else begin a new one with a hello."""
        if answer.received is not None and not self.link.is_broken:
            return answer.received
        plugins = self.host.short_descriptions()
        hello = Hello(self.host.host.role, self._version, plugins, self.shared)
        self.link.renew(
            ConnectionLost("the bridge was restarted during the call"), pack_value(to_data(hello))
        )
        return 0

    async def _remember(self, resume_key: str) -> None:
        if resume_key and resume_key != self._resume_key:
            self._resume_key = resume_key
            try:
                await anyio.to_thread.run_sync(write_private, self._key_file, resume_key)
            except OSError as error:
                logger.warning("the name is kept only until this endpoint stops: %s", error)

    def _is_fatal(self, error: OrbitError) -> bool:
        if isinstance(error, NameInUse):
            return not self._has_linked and time.monotonic() - self._started > NAME_PATIENCE
        return isinstance(error, (Unauthorized, Forbidden)) or error.status_code in (400, 401, 403)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        await self._site(scope, receive, send)

    def _hear(self, kind: Kind, payload: memoryview) -> None:
        try:
            self._take(kind, payload)
        except (InvalidBody, AttributeError, TypeError) as error:
            raise ProtocolError(f"the bridge sent a {kind.name} that is none: {error}") from None

    def _take(self, kind: Kind, payload: memoryview) -> None:
        match kind:
            case Kind.WELCOME:
                self._has_linked = True
                self.linked.set()
            case Kind.TOPOLOGY:
                self._hear_topology(unpack_map(payload))
            case Kind.SHUTDOWN:
                reason = unpack_map(payload).get("reason", "")
                self.fail(Forbidden(f"the bridge told this endpoint to leave: {reason}"))

    def _hear_topology(self, told: dict[str, Any]) -> None:
        """Take who is connected: the ``whole``, or who ``changed`` and who is ``gone``."""
        gone = set(told.get("gone", ()))
        before = {} if "whole" in told else self.topology.endpoints
        endpoints = {name: info for name, info in before.items() if name not in gone}
        for name, data in {**told.get("whole", {}), **told.get("changed", {})}.items():
            endpoints[name] = from_wire(data, EndpointInfo, "topology")
        self.topology = Topology(endpoints)
        self.host.hooks.topology_changed(self.topology)


def _resolve(config: EndpointConfig, token: str | None) -> Access:
    """Find the bridge, and try its certificate, which reads files. Raises ConfigError."""
    if token is None and config.token_file is not None:
        token = read_secret(config.token_file, "token file")
    access = resolve_access(config.url, token, config.cert, file=ClientConfig())
    if socket_url(access.url).startswith("wss:"):
        trust(access.cert)
    return access


@asynccontextmanager
async def open_endpoint(
    config: EndpointConfig,
    host: HostInfo,
    *,
    settings: Mapping[str, dict[str, Any]] | None = None,
    token: str | None = None,
    available: Any = None,
) -> AsyncIterator[Endpoint]:
    """Run an endpoint while the context is open; wait for ``linked`` or ``stopped``.

    ``settings`` holds the plugins' sections. A ``token``, and what ``config`` says, goes before the
    environment. Raises ConfigError, InvalidName, StateInUse.
    """
    name = check_name(
        config.name or socket.gethostname().split(".")[0], "endpoint name", reserved=RESERVED_NAMES
    )
    access = await anyio.to_thread.run_sync(_resolve, config, token)
    state_dir = config.state_dir or state_home() / name
    async with open_host(name, host, state_dir) as plugin_host:
        calls = LightTasks()
        endpoint = Endpoint(name, access, plugin_host, calls, config=config)
        await endpoint.prepare()
        plugin_host.hooks.add("(uplink)", Uplink(endpoint.link))
        async with (
            endpoint.hub,
            plugin_host.running(),
            calls,
            open_tasks() as group,
        ):
            try:
                await plugin_host.load(
                    config.plugins,
                    settings=settings or {},
                    hub=endpoint.hub,
                    bridge=access,
                    available=available,
                )
                endpoint.open_site()
                plugin_host.hooks.topology_changed(endpoint.topology)
                group.start_soon(endpoint.stay_linked)
                group.start_soon(expire_calls, endpoint.link)
                yield endpoint
                await endpoint.leave()
            finally:
                endpoint.link.end(ConnectionLost(f"endpoint {name} stops"))
