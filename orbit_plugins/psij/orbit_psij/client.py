"""Talk to the plugin from afar."""

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import anyio
import attrs

from orbit_core import PluginClient
from orbit_core.errors import GatewayTimeout, Unavailable, UnknownEndpoint
from orbit_core.ways.models import TUNNELS

from . import errors as errors
from .children.errors import UnknownChild as UnknownChild
from .models import JobSpec, JobState

FIRST_POLL, POLL = 0.05, 1.0
"""Seconds between the first looks of `PSIJClient.wait_job`, doubling, and at most."""

_PAST_THE_END = 2**59


class PSIJClient(PluginClient):
    """Submit, watch and cancel jobs in the session that `register_session` opened.

    Every method raises OrbitError for what the plugin refuses, such as
    `orbit_psij.UnknownJob`, and RuntimeError without a session.
    """

    async def submit_job(
        self,
        job_spec: JobSpec | Mapping[str, Any],
        executor: str = "local",
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Start a job and return its ``job_id`` and ``native_id``.

        A broken connection is retried with the same ``idempotency_key`` (a new one unless given),
        so that the job starts once.
        """
        spec = attrs.asdict(job_spec) if isinstance(job_spec, JobSpec) else dict(job_spec)
        body = {"job_spec": spec, "executor": executor}
        key = idempotency_key or str(uuid.uuid4())
        route = f"submit/{self._require_session()}"
        return dict(await self.post(route, body, idempotency_key=key))

    async def get_job_status(
        self, job_id: str, stdout_offset: int = 0, stderr_offset: int = 0
    ) -> dict[str, Any]:
        """Return a job's status, with its output from these byte offsets on."""
        return dict(
            await self.get(
                f"status/{self._require_session()}/{job_id}",
                stdout_offset=stdout_offset,
                stderr_offset=stderr_offset,
            )
        )

    async def list_jobs(self) -> list[dict[str, Any]]:
        """Return the session's jobs, oldest first."""
        return list((await self.get(f"list_jobs/{self._require_session()}"))["jobs"])

    async def cancel_job(self, job_id: str) -> dict[str, Any]:
        """End a job with all its processes, and return when it is gone."""
        return dict(await self.post(f"cancel/{self._require_session()}/{job_id}"))

    async def submit_tunneled(
        self,
        job_spec: JobSpec | Mapping[str, Any],
        executor: str = "local",
        tunnel: str = "none",
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Start a child endpoint in a job; return ``job_id``, ``native_id``, ``endpoint_name``.

        The job's arguments name it (``--name NAME``); its executable may be left out. Raises
        ValueError for a ``tunnel`` that is none of `orbit_core.ways.models.TUNNELS`.
        """
        if tunnel not in TUNNELS:
            raise ValueError(f"tunnel must be one of {', '.join(TUNNELS)}, not {tunnel!r}")
        spec = attrs.asdict(job_spec) if isinstance(job_spec, JobSpec) else dict(job_spec)
        body = {"job_spec": spec, "executor": executor, "tunnel": tunnel}
        key = idempotency_key or str(uuid.uuid4())
        route = f"submit_tunneled/{self._require_session()}"
        return dict(await self.post(route, body, idempotency_key=key))

    async def tunnel_status(self, endpoint_name: str) -> dict[str, Any]:
        """Return how a child endpoint's tunnel is: ``status``, ``way``, ``lost``, ``reason``."""
        return dict(await self.get(f"tunnel_status/{endpoint_name}"))

    async def list_children(self) -> list[dict[str, Any]]:
        """Return the caller's child endpoints, as `tunnel_status` does, oldest first."""
        return list((await self.get("children"))["children"])

    async def stop_child(self, endpoint_name: str) -> dict[str, Any]:
        """End a child endpoint with its job."""
        return dict(await self.post(f"stop_child/{endpoint_name}"))

    async def executors(self) -> list[str]:
        """Return the executors that a job may name."""
        return [found["name"] for found in (await self.get("executors"))["executors"]]

    async def follow_output(
        self,
        job_id: str,
        stream: str = "stdout",
        offset: int = 0,
        *,
        follow: bool = True,
        index: int | None = None,
    ) -> AsyncIterator[bytes]:
        """Yield a job's output as it is written, to the end of the job.

        The parts are bytes and may end within a character. Without ``follow`` they end with what
        there is now. ``index`` picks an element of a job array.
        """
        route = f"output/{self._require_session()}/{job_id}"
        flag = "true" if follow else "false"
        async with aclosing(
            self.stream(  # type: ignore[type-var]
                route, stream=stream, follow=flag, offset=offset, index=index
            )
        ) as parts:
            async for part in parts:
                yield part

    async def wait_job(
        self,
        job_id: str,
        timeout: float | None = None,
        on_change: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Wait for a job's end and return its last status.

        It asks once a second, and goes on asking while the endpoint is away. ``on_change`` is
        called with the status, without output, whenever there is another state. Raises
        TimeoutError after ``timeout`` seconds.
        """
        delay, known = FIRST_POLL, None
        with anyio.fail_after(timeout):
            while True:
                status = await self._status_or_none(job_id)
                if status is not None and (state := JobState(status["state"])) != known:
                    known = state
                    if on_change is not None:
                        on_change(status)
                if known is not None and known.is_final:
                    return await self.get_job_status(job_id)
                await anyio.sleep(delay)
                delay = min(2 * delay, POLL)

    async def _status_or_none(self, job_id: str) -> dict[str, Any] | None:
        try:
            return await self.get_job_status(job_id, _PAST_THE_END, _PAST_THE_END)
        except (Unavailable, GatewayTimeout, UnknownEndpoint):
            return None
