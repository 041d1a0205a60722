"""Use one cluster for one run: its files, its tasks and its jobs."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import anyio
import attrs

from orbit_core.errors import SessionExpired, UnknownSession

from .failures import StepFailed
from .reach import Watch, patiently
from .records import FOLDERS, Workspace

T = TypeVar("T")


@attrs.define(eq=False)
class Site:
    """Reach what one run uses at other endpoints, in sessions that last until they are released.

    Files are in a session of the user's (``files_sid``), since they outlive the run; tasks and jobs
    in one of the run's own (``run_sid``). ``patience`` is the seconds that an endpoint may be away;
    ``watches`` has those of endpoints that may end.
    """

    hub: Any
    run_sid: str
    files_sid: str
    patience: float
    watches: dict[str, Watch] = attrs.field(factory=dict)
    _clients: dict[tuple[str, str], Any] = attrs.field(factory=dict)

    async def files(self, cluster: str) -> Any:
        """Return a client of ``staging`` at a cluster, as patient as this is."""
        found = await self._client(cluster, "staging", self.files_sid)
        found.patience = self.patience
        return found

    async def move(self, cluster: str, act: Callable[[], Awaitable[Any]], limit: float) -> None:
        """Move one file to a cluster, within ``limit`` seconds. Raises StepFailed."""
        try:
            with anyio.fail_after(limit):
                await self.ask(cluster, act)
        except TimeoutError:
            raise StepFailed(
                f"a file has not arrived at {cluster} within {limit:g} s: see timeouts.staging"
            ) from None

    async def tasks(self, endpoint: str, backends: Sequence[str] | None = None) -> Any:
        """Return a client of ``rhapsody`` at an endpoint: a cluster, or its pilot."""
        wanted = {} if backends is None else {"backends": list(backends)}
        return await self._client(endpoint, "rhapsody", self.run_sid, **wanted)

    async def jobs(self, cluster: str) -> Any:
        """Return a client of ``psij`` at a cluster."""
        return await self._client(cluster, "psij", self.run_sid)

    async def _client(self, endpoint: str, plugin: str, sid: str, **settings: Any) -> Any:
        key = (endpoint, plugin)
        if key not in self._clients:
            found = self.hub.get_endpoint_client(endpoint)
            self._clients[key] = await self.ask(
                endpoint,
                lambda: found.get_plugin(plugin, sid=sid, lifetime="persistent", **settings),
            )
        return self._clients[key]

    async def ask(self, endpoint: str, act: Callable[[], Awaitable[T]]) -> T:
        """Return what ``act`` does at an endpoint, which is safe to repeat, as `patiently` does."""
        return await patiently(endpoint, act, self.patience, self.watches.get(endpoint))

    async def prepare(self, cluster: str, programs: str | None, run_id: str) -> Workspace:
        """Make the run's directories at a cluster and return where they are.

        They are below ``programs``, the directory of the workflow's programs, or below the
        session's own where there is none. Raises what staging refuses.
        """
        files = await self.files(cluster)
        base = programs.rstrip("/") if programs else ""
        home = await self.ask(cluster, partial(files.stat, base))
        run = f"{base}/runs/{run_id}" if base else f"runs/{run_id}"
        made = ""
        for name in FOLDERS:
            found = await self.ask(cluster, partial(files.mkdir, f"{run}/{name}"))
            made = str(found["path"]).removesuffix(f"/{name}")
        return Workspace(programs=str(home["path"]), run=made)

    async def release(self, endpoint: str, plugin: str, sid: str) -> None:
        """End one of the two sessions at a plugin, with what it still holds."""
        client = await self._client(endpoint, plugin, sid)
        try:
            await self.ask(endpoint, partial(client.post, f"unregister_session/{sid}"))
        except (UnknownSession, SessionExpired):  # it is over already
            return
