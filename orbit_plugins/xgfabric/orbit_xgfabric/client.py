"""Talk to the plugin from afar."""

import uuid
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import anyio

from orbit_core import PluginClient
from orbit_core.errors import GatewayTimeout, Unavailable, UnknownEndpoint

from . import errors as errors
from . import failures as failures

AWAY = (GatewayTimeout, Unavailable, UnknownEndpoint)
"""The errors of an endpoint that is away and may come back."""

POLL = 0.5
"""Seconds between the looks of `XGFabricClient.wait_workflow`."""


class XGFabricClient(PluginClient):
    """Run workflows in the session that `register_session` opened.

    A configuration is JSON data, as `orbit_xgfabric.config_to_dict` returns it. Every method raises
    OrbitError for what the plugin refuses, such as `orbit_xgfabric.WorkflowRunning`, and
    RuntimeError without a session.
    """

    async def get_workdir(self) -> str:
        """Return the work directory at the endpoint."""
        return str((await self.get(self._route("workdir")))["path"])

    async def set_workdir(self, path: str) -> str:
        """Work in another directory of the endpoint, and return its absolute path."""
        return str((await self.post(self._route("workdir"), {"path": path}))["path"])

    async def list_configs(self) -> list[dict[str, Any]]:
        """Return the work directory's configurations: ``name``, ``description``, ``modified``."""
        return list(await self.get(self._route("configs")))

    async def load_config(self, name: str) -> dict[str, Any]:
        """Return a configuration."""
        return dict(await self.get(self._route("config", name)))

    async def get_default_config(self) -> dict[str, Any]:
        """Return the workflow ``default``."""
        return await self.load_config("default")

    async def get_test_config(self) -> dict[str, Any]:
        """Return the workflow ``test``."""
        return await self.load_config("test")

    async def save_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """Write a configuration under its own name."""
        return dict(await self.post(self._route("config"), config))

    async def delete_config(self, name: str) -> dict[str, Any]:
        """Delete a configuration."""
        return dict(await self.post(f"{self._route('config', name)}/delete"))

    async def get_status(self) -> dict[str, Any]:
        """Return how the workflow is."""
        return dict(await self.get(self._route("status")))

    async def start_workflow(
        self,
        workflow: str | dict[str, Any] = "__default__",
        resource: str | dict[str, Any] = "__default__",
    ) -> dict[str, Any]:
        """Begin a workflow; either is a configuration or the name of one.

        A broken connection is retried, and the workflow begins once.
        """
        body = {"workflow": workflow, "resource": resource}
        key = uuid.uuid4().hex
        return dict(await self.post(self._route("start"), body, idempotency_key=key))

    async def stop_workflow(self) -> dict[str, Any]:
        """Stop the workflow, and return when it has stopped."""
        return dict(await self.post(self._route("stop")))

    async def wait_workflow(
        self,
        timeout: float | None = None,
        on_change: Callable[[dict[str, Any]], Any] | None = None,
    ) -> dict[str, Any]:
        """Wait until no workflow runs, and return how the last one is.

        It goes on while the endpoint is away. ``on_change`` is called with each state that differs
        from the one before. Raises TimeoutError after ``timeout`` seconds.
        """
        known: dict[str, Any] | None = None
        with anyio.fail_after(timeout):
            while True:
                try:
                    state = await self.get_status()
                except AWAY:
                    state = known or {"status": "running"}
                if on_change is not None and state != known:
                    on_change(state)
                known = state
                if state["status"] != "running":
                    return state
                await anyio.sleep(POLL)

    async def list_runs(self) -> list[dict[str, Any]]:
        """Return how each of the session's runs is, oldest first."""
        return list((await self.get(self._route("runs")))["runs"])

    async def get_report(self, run_id: str | None = None) -> dict[str, Any]:
        """Return where the time of a run went, of the last one unless named."""
        return dict(await self.get(self._route("report"), run_id=run_id))

    async def get_report_text(self, format: str, run_id: str | None = None) -> str:
        """Return the same as ``csv``, or as a picture in ``svg``."""
        parts = self.stream(self._route("report"), run_id=run_id, format=format)
        async with aclosing(parts) as found:  # type: ignore[type-var]
            return b"".join([part async for part in found]).decode()

    def _route(self, route: str, *more: str) -> str:
        return "/".join([route, self._require_session(), *more])
