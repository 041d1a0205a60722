"""Reach a bridge, its endpoints and their plugins from Python."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, aclosing
from functools import partial
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.to_thread
import httpx
from anyio.abc import TaskGroup

from ._callbacks import Callbacks, TopologyCallback
from ._event_reader import Event as Event
from ._event_reader import read_events
from ._http_client import CALL_TIMEOUT, connect, http_client
from .error_documents import error_of
from .errors import (
    ConnectionLost,
    DeadlineExceeded,
    OrbitError,
    UnknownRoute,
    reason_of,
)
from .plugin_client import Callback, PluginClient, client_class

logger = logging.getLogger(__name__)


class AsyncEndpointClient:
    """Reach one endpoint."""

    def __init__(self, bridge: "AsyncBridgeClient", name: str) -> None:
        """Belong to ``bridge``."""
        self._bridge = bridge
        self.name = name

    async def list_plugins(self) -> dict[str, Any]:
        """Return what each plugin instance is: type, version, namespace, portal page, routes."""
        return dict((await self.describe())["plugins"])

    async def describe(self) -> dict[str, Any]:
        """Return the served plugins, and for every installed one what became of it and why."""
        return dict(await self._bridge.request("GET", f"/{self.name}/plugins"))

    async def get_plugin(self, name: str, **session: Any) -> PluginClient:
        """Return a client for the plugin instance (or type) ``name``, working in a new session.

        ``session`` goes to ``register_session``: ``sid``, ``lifetime``, ``ttl`` and what the plugin
        takes. A plugin without sessions gives a client without one.

        Raises UnknownRoute if the endpoint serves no such plugin.
        """
        plugins = await self.list_plugins()
        instance = _find_instance(plugins, name)
        if instance is None:
            available = ", ".join(plugins) or "none"
            raise UnknownRoute(
                f"endpoint {self.name} serves no plugin {name!r}; available: {available}; "
                f"orbit plugins {self.name} tells why others are not"
            )
        kind = await anyio.to_thread.run_sync(client_class, plugins[instance]["type"])
        client = kind(
            self._bridge.http, f"/{self.name}/{instance}", self._bridge, self.name, instance
        )
        try:
            await client.register_session(**session)
        except UnknownRoute:
            logger.debug("plugin %s has no sessions", instance)
        return client


def _find_instance(plugins: dict[str, Any], name: str) -> str | None:
    if name in plugins:
        return name
    return next((instance for instance, plugin in plugins.items() if plugin["type"] == name), None)


class AsyncBridgeClient:
    """Reach a bridge. Use it as an asynchronous context manager."""

    def __init__(
        self,
        url: str | None = None,
        cert: str | Path | None = None,
        token: str | None = None,
        *,
        timeout: float = CALL_TIMEOUT,
    ) -> None:
        """Take what names the bridge, over the environment, the configuration, and this host's."""
        self._connect = partial(connect, url, cert, token, timeout)
        self._http: httpx.AsyncClient | None = None
        self._stack = AsyncExitStack()
        self._group: TaskGroup | None = None
        self.callbacks = Callbacks()
        self._listening: anyio.Event | None = None

    @classmethod
    def over(
        cls, transport: httpx.AsyncBaseTransport, url: str, group: TaskGroup | None = None
    ) -> "AsyncBridgeClient":
        """Return a client that sends through ``transport``, which knows who it speaks for.

        With a ``group`` of its own for what it runs, it is open already.
        """
        client = cls()
        client._connect = partial(http_client, url, transport)
        if group is not None:
            client._http, client._group = client._connect(), group
        return client

    @property
    def http(self) -> httpx.AsyncClient:
        """Return the HTTP client."""
        if self._http is None:
            raise RuntimeError("this client is not open: use it as a context manager")
        return self._http

    @property
    def url(self) -> str:
        """Return the bridge's URL."""
        return str(self.http.base_url).rstrip("/")

    async def __aenter__(self) -> Self:
        """Find the bridge and open the client. Raises ConfigError if no bridge is to be found."""
        self._http = await anyio.to_thread.run_sync(self._connect)
        self._group = await self._stack.enter_async_context(anyio.create_task_group())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the client."""
        await self.close()

    async def close(self) -> None:
        """End the event stream and close the connections."""
        if self._group is not None:
            self._group.cancel_scope.cancel()
            self._group = None
        await self._stack.aclose()
        if self._http is not None:
            await self._http.aclose()

    async def request(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Return the JSON that ``GET /node7/sysinfo/homedir`` or so answers. Raises OrbitError."""
        try:
            response = await self.http.request(method, path, json=body, headers=headers)
        except httpx.TransportError as error:
            raise ConnectionLost(f"{method} {path}: {reason_of(error)}") from error
        if response.status_code >= 400:
            raise error_of(response)
        try:
            return response.json() if response.content else None
        except ValueError:
            raise OrbitError.from_reply(502, "", f"{method} {path} answers no JSON") from None

    async def list_endpoints(self) -> dict[str, Any]:
        """Return the connected endpoints by name: role, liveness, plugins, portal pages."""
        reply = await self.request("POST", "/endpoint/list")
        return dict(reply["data"]["endpoints"])

    def get_endpoint_client(self, name: str) -> AsyncEndpointClient:
        """Return a client for one endpoint; nothing is asked yet."""
        return AsyncEndpointClient(self, name)

    async def wait_for_endpoint(
        self,
        names: str | Iterable[str],
        timeout: float = 1800.0,
        poll: float = 3.0,
        on_heartbeat: Callable[[float], Any] | None = None,
        heartbeat_interval: float = 10.0,
    ) -> None:
        """Wait until the endpoints are connected; ``on_heartbeat(elapsed)`` is called meanwhile.

        Raises DeadlineExceeded after ``timeout`` seconds, naming who is missing.
        """
        wanted = {names} if isinstance(names, str) else set(names)
        start = beat = time.monotonic()
        while True:
            rows = (await self.request("GET", "/endpoints"))["endpoints"]
            missing = wanted - {row["name"] for row in rows if row["connected"]}
            now = time.monotonic()
            if not missing:
                return
            if now - start >= timeout:
                raise DeadlineExceeded(
                    f"not connected after {timeout:g} s: {', '.join(sorted(missing))}"
                )
            if on_heartbeat is not None and now - beat >= heartbeat_interval:
                beat = now
                await self.callbacks.call(on_heartbeat, now - start)
            await anyio.sleep(
                min(poll, max(0.0, timeout - (now - start)), 0.05 + (now - start) / 4)
            )

    async def plugins(self) -> dict[str, Any]:
        """Return what the bridge itself hosts, and why other plugins are not served there."""
        return dict(await self.request("GET", "/plugins"))

    async def whoami(self) -> dict[str, Any]:
        """Return the owner and role of the token."""
        return dict(await self.request("GET", "/auth"))

    async def create_token(
        self, role: str, owner: str, *, expires: float | None = None, endpoint: str | None = None
    ) -> dict[str, Any]:
        """Make a token (administrators only); its text is under ``token`` and is shown only now."""
        body = {"role": role, "owner": owner, "expires": expires, "endpoint": endpoint}
        return dict(await self.request("POST", "/tokens", body))

    async def list_tokens(self) -> list[dict[str, Any]]:
        """Return the tokens without their texts (administrators only)."""
        return list((await self.request("GET", "/tokens"))["tokens"])

    async def revoke_token(self, token_id: str) -> None:
        """Forget a token and cut what it opened (administrators only)."""
        await self.request("DELETE", f"/tokens/{token_id}")

    async def disconnect_endpoint(self, name: str) -> None:
        """Tell an endpoint to leave (administrators only)."""
        await self.request("POST", f"/endpoint/disconnect/{name}")

    async def terminate_bridge(self) -> None:
        """Stop the bridge (administrators only)."""
        await self.request("POST", "/bridge/terminate")

    async def events(
        self, endpoint: str | None = None, plugin: str | None = None, topic: str | None = None
    ) -> AsyncIterator[Event]:
        """Yield events for ever: the topology first, then what matches; reconnects and resumes.

        A ``gap`` event says that some were missed. Raises OrbitError where trying again is
        no use.
        """
        query = {"endpoint": endpoint, "plugin": plugin, "topic": topic}
        parameters = {key: value for key, value in query.items() if value is not None}
        async with aclosing(read_events(self.http, parameters)) as found:
            async for event in found:
                yield event

    def register_callback(
        self,
        endpoint_id: str | None,
        plugin_name: str | None,
        topic: str | None,
        callback: Callback,
    ) -> None:
        """Call ``callback(endpoint, plugin, topic, data)`` for what matches; None is all."""
        self.callbacks.add((endpoint_id, plugin_name, topic), callback)
        self._start_listening()

    def unregister_callback(
        self,
        endpoint_id: str | None,
        plugin_name: str | None,
        topic: str | None,
        callback: Callback,
    ) -> None:
        """Stop calling ``callback`` for this."""
        self.callbacks.remove((endpoint_id, plugin_name, topic), callback)

    def register_topology_callback(self, callback: TopologyCallback) -> None:
        """Call ``callback(endpoints)`` with the endpoints by name, now and when they change."""
        self.callbacks.add_topology(callback)
        self._start_listening()

    def unregister_topology_callback(self, callback: TopologyCallback) -> None:
        """Stop calling ``callback``."""
        self.callbacks.remove_topology(callback)

    async def wait_for_listener(self, timeout: float = 30.0) -> None:
        """Wait until callbacks hear everything from now on. Raises DeadlineExceeded."""
        listening = self._start_listening()
        with anyio.move_on_after(timeout):
            await listening.wait()
            return
        raise DeadlineExceeded(f"the event stream did not open within {timeout:g} s")

    def _start_listening(self) -> anyio.Event:
        if self._group is None:
            raise RuntimeError("callbacks need an open client: use it as a context manager")
        if self._listening is None:
            self._listening = anyio.Event()
            self._group.start_soon(self._listen, self._listening)
        return self._listening

    async def _listen(self, listening: anyio.Event) -> None:
        try:
            events = self.events()
            while True:
                event = await anext(events)
                listening.set()
                await self.callbacks.tell(event)
        except OrbitError as error:
            logger.error("no more notifications arrive: %s", error)
