"""Offer `PluginClient`, what a plugin's own client class is built on."""

import logging
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol, cast

import httpx

from ._guard import load
from .error_documents import error_of
from .errors import ConfigError, ConnectionLost, OrbitError, reason_of

logger = logging.getLogger(__name__)

CLIENTS = "orbit.clients"
"""Entry-point group that names each plugin type's own client class."""

Callback = Callable[[str, str, str, Any], Any]
Registration = Callable[[str | None, str | None, str | None, Callback], None]


class Listener(Protocol):
    """Pass notifications of an endpoint, plugin and topic (None is all) on to callbacks."""

    @property
    def register_callback(self) -> Registration:
        """Return what has a callback called from now on."""
        ...

    @property
    def unregister_callback(self) -> Registration:
        """Return what has it called no more."""
        ...


class PluginClient:
    """Talk to one plugin instance.

    Methods are written once, as coroutines (and asynchronous generators for streams). A user of
    `orbit_core.BridgeClient` gets the same methods as plain blocking ones, made from these.
    """

    def __init__(
        self,
        http_client: httpx.AsyncClient,
        base_url: str,
        bridge_client: Listener | None = None,
        endpoint_id: str | None = None,
        plugin_name: str | None = None,
    ) -> None:
        """Send requests below ``base_url``, such as ``/node7/psij``."""
        self._http = http_client
        self._base_url = base_url.rstrip("/")
        self._bridge = bridge_client
        self._endpoint = endpoint_id
        self._plugin = plugin_name
        self._sid: str | None = None
        self._is_ours = False

    @property
    def sid(self) -> str | None:
        """Return the id of the session that this client works in, if any."""
        return self._sid

    async def register_session(self, **settings: Any) -> str:
        """Open a session (or reattach to ``sid=``) and work in it from now on; return its id."""
        key = uuid.uuid4().hex
        reply = await self.post("register_session", settings or None, idempotency_key=key)
        self._sid = str(reply["sid"])
        self._is_ours = not any(settings.get(name) for name in ("sid", "ttl")) and (
            settings.get("lifetime") in (None, "ephemeral")
        )
        return self._sid

    async def unregister_session(self) -> None:
        """Close the session and what it holds; nothing happens without one."""
        if self._sid is not None:
            sid, self._sid = self._sid, None
            await self.post(f"unregister_session/{sid}")

    async def health(self) -> dict[str, Any]:
        """Return how the plugin is."""
        return dict(await self.get("health"))

    async def get(self, route: str, **parameters: Any) -> Any:
        """Return what GET ``route`` answers; a parameter None is left out. Raises OrbitError."""
        return await self._request("GET", route, parameters=parameters)

    async def post(
        self, route: str, body: Any = None, *, idempotency_key: str | None = None
    ) -> Any:
        """Return what POST ``route`` answers to the JSON ``body``.

        With an ``idempotency_key`` the call is safe to repeat, and is repeated when the connection
        breaks or the bridge asks to wait. Raises OrbitError.
        """
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return await self._request("POST", route, body=body, headers=headers)

    async def stream(self, route: str, **parameters: Any) -> AsyncIterator[bytes]:
        """Yield the body of GET ``route`` as it arrives. Raises OrbitError."""
        query = _without_none(parameters)
        request = self._http.stream("GET", self._url(route), params=query, timeout=_PATIENT)
        try:
            async with request as response:
                if response.status_code >= 400:
                    await response.aread()
                    self._raise(response, f"GET {route}")
                async for chunk in response.aiter_bytes():
                    yield chunk
        except httpx.TransportError as error:
            raise _broken(error) from error

    def register_notification_callback(self, callback: Callback, topic: str | None = None) -> None:
        """Call ``callback(endpoint, plugin, topic, data)`` for each notification of this plugin.

        Raises RuntimeError if this client was made without a bridge client.
        """
        bridge, endpoint, plugin = self._require_listener()
        bridge.register_callback(endpoint, plugin, topic, callback)

    def unregister_notification_callback(
        self, callback: Callback, topic: str | None = None
    ) -> None:
        """Stop calling ``callback``."""
        bridge, endpoint, plugin = self._require_listener()
        bridge.unregister_callback(endpoint, plugin, topic, callback)

    async def close(self) -> None:
        """Close the session, unless it is to outlive this client; a failure is only logged.

        What outlives the client is a session that was named with ``sid``, to come back to, and one
        with a ``ttl`` or the lifetime ``persistent``. Such a session is forgotten here.
        """
        sid = self._sid
        try:
            if self._is_ours:
                await self.unregister_session()
        except RuntimeError as error:  # an OrbitError, or the bridge client is closed already
            logger.warning("session %s of %s is not closed: %s", sid, self._base_url, error)
        finally:
            self._sid = None

    def _require_session(self) -> str:
        if self._sid is None:
            raise RuntimeError("no active session: call register_session first")
        return self._sid

    def _require_listener(self) -> tuple[Listener, str, str]:
        if self._bridge is None or self._endpoint is None or self._plugin is None:
            raise RuntimeError("notifications need a client made by get_plugin")
        return self._bridge, self._endpoint, self._plugin

    def _url(self, route: str) -> str:
        return f"{self._base_url}/{route.lstrip('/')}"

    async def _request(
        self,
        method: str,
        route: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        try:
            response = await self._http.request(
                method,
                self._url(route),
                params=_without_none(parameters or {}),
                json=body,
                headers=dict(headers or {}),
            )
        except httpx.TransportError as error:
            raise _broken(error) from error
        if response.status_code >= 400:
            self._raise(response, f"{method} {route}")
        try:
            return response.json() if response.content else None
        except ValueError:
            raise OrbitError(f"{method} {self._url(route)} was not answered with JSON") from None

    def _raise(self, response: httpx.Response, context: str) -> None:
        """Raise the error that a reply speaks of, with where it came from in its text."""
        raise error_of(response, f"[{self._endpoint}/{self._plugin}] {context}")


_PATIENT = httpx.Timeout(30.0, read=None)


def _broken(error: httpx.TransportError) -> ConnectionLost:
    return ConnectionLost(f"the connection broke during the reply: {reason_of(error)}")


def client_class(plugin_type: str) -> type[PluginClient]:
    """Return a plugin type's client class, `PluginClient` where that is not to be had."""
    for entry in entry_points(group=CLIENTS, name=plugin_type):
        try:
            return cast(type[PluginClient], load(entry))
        except ConfigError as error:
            logger.warning("the plugin %s has a plain client here: %s", plugin_type, error)
    return PluginClient


def _without_none(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if value is not None}
