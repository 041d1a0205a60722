"""Own the backends and the tasks of one plugin, whoever's they are."""

import logging
import secrets
import shutil
from collections.abc import Callable, Iterable

import anyio
import anyio.to_thread

from orbit_core import PluginContext
from orbit_core.errors import StateUnavailable

from .archive import Archive
from .backends import AnyBackend, processors, start_backend, start_in_thread
from .endings import Endings
from .errors import BackendFailed
from .lane import Lane
from .models import RhapsodySettings, TaskState
from .processes import end_processes
from .records import Ended
from .task import Kind, Task

logger = logging.getLogger(__name__)

CANCEL_GRACE = 5.0
"""Seconds between asking an executable's processes to end (SIGTERM) and ending them (SIGKILL)."""

LOOK_AGAIN = 0.2
STOP_GRACE = 1.0
"""The same, in seconds, when the endpoint stops."""

START_TIMEOUT = 110.0
"""Seconds that a backend has to start."""

LEAST_EXECUTABLES = 16
"""How many run at a time at least: while one starts or ends, its processor has time for others."""

FUNCTIONS_AHEAD = 64
"""How many functions for each worker a backend is handed at a time, so that none waits for more."""

SWEEP_INTERVAL = 60.0
RETRY_DELAY = 5.0

SPACING = 0.003
"""Seconds between two calls of a backend for executables, which take as long to start."""

FIRST_PAUSE, WRITE_PAUSE = 0.002, 0.02
"""Seconds before a result is written, in which it goes to who waits for it; and seconds in which
more collect after some were: each write costs the others time."""

HEAD_START, SYNC_PAUSE = 0.002, 0.01
"""The same for the disk that is waited for after tasks were accepted: most are over by then."""


class Engine:
    """Run tasks, and have their results kept."""

    def __init__(self, context: PluginContext) -> None:
        """Use the plugin's directory, documents and background."""
        self.settings = context.settings(RhapsodySettings)
        self.archive = Archive(context)
        self._context = context
        self._documents = context.documents.part("engine")
        self._work = context.directory / "work"
        self._mark = ""
        self._backends: list[AnyBackend] = []
        self._lanes: dict[tuple[str, Kind], Lane] = {}
        self._starting = anyio.Lock()
        self._ends: list[tuple[Ended, Callable[[], None]]] = []
        self._has_ends = anyio.Event()
        self._accepted: list[Callable[[StateUnavailable | None], None]] = []
        self._has_accepted = anyio.Event()
        self._is_closed = False
        self._endings = Endings()
        # Threads of its own: those that wait for processes to end take their time.
        self._limiter = anyio.CapacityLimiter(8)

    async def open(self) -> None:
        """Read what there is from before, and end the processes that a killed endpoint left."""
        await self.archive.open()
        mark = await self._documents.get("mark")
        if mark is None:
            await self._documents.put("mark", mark := secrets.token_hex(8))
        self._mark = mark
        left = await self._end_processes(self._is_ours, 0.0)
        if left:
            logger.warning("%d processes of an earlier process of this endpoint are ended", left)
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(self._work, ignore_errors=True))
        await anyio.to_thread.run_sync(lambda: self._work.mkdir(mode=0o700, parents=True))
        self._context.background(self._keep_results)
        self._context.background(self._keep_accepted)
        self._context.background(self._endings.run)
        self._context.background(self._sweep)

    async def close(self) -> None:
        """End the processes of executables and the backends, and write the last results down."""
        running = [task for lane in self._lanes.values() for task in lane.stop()]
        await self._end_processes(self._is_ours, STOP_GRACE)
        with anyio.move_on_after(STOP_GRACE):
            for task in running:
                await task.until_over()
        async with self._starting:
            for backend in self._backends:
                await backend.close()
        await self.flush()
        self._is_closed = True
        await self.archive.ledger.close()

    async def flush(self) -> None:
        """Have the results so far on disk; if that fails, they are written later."""
        try:
            await self._write_ends()
        except StateUnavailable as error:
            logger.error("results are not written: %s", error.detail)

    async def ensure(self, name: str) -> None:
        """Start a backend unless it runs. Raises BackendFailed with the reason.

        A start that has begun is carried through, lest processes stay that nobody knows of.
        """
        async with self._starting:
            if (name, "function") in self._lanes:
                return
            try:
                with anyio.fail_after(START_TIMEOUT, shield=True):
                    await self._start(name)
            except Exception as error:  # a backend may fail in any way
                logger.warning("backend %s does not start", name, exc_info=True)
                text = str(error) or type(error).__name__
                raise BackendFailed(f"backend {name} does not start: {text}") from error

    async def _start(self, name: str) -> None:
        backend: AnyBackend = await start_backend(name, self.settings, self._work)
        self._backends.append(backend)
        apart = backend
        if name == "concurrent":
            apart = await start_in_thread(name, self.settings, self._work)
            self._backends.append(apart)
        functions = FUNCTIONS_AHEAD * backend.workers
        executables = self.settings.executables or max(LEAST_EXECUTABLES, processors())
        self._open_lane(name, "executable", apart, executables, SPACING)
        self._open_lane(name, "ai", backend, functions)
        self._open_lane(name, "function", backend, functions)

    def _open_lane(
        self, name: str, kind: Kind, backend: AnyBackend, limit: int, spacing: float = 0.0
    ) -> None:
        lane = Lane(backend, limit, self._mark, self._endings, spacing)
        self._lanes[name, kind] = lane
        self._context.background(lane.run)

    def begin(self, tasks: list[Task]) -> None:
        """Have the tasks of one session run when their turn comes."""
        by_lane: dict[tuple[str, Kind], list[Task]] = {}
        for task in tasks:
            by_lane.setdefault((task.work.backend, task.work.kind), []).append(task)
        for (backend, kind), found in by_lane.items():
            self._lanes[backend, kind].add(found)
        for task in tasks:
            if task.work.timeout is not None:
                self._context.background(self._limit, task, task.work.timeout)

    def keep(self, end: Ended, written: Callable[[], None]) -> None:
        """Have a result on disk soon; ``written`` is called when it is."""
        if self._is_closed:
            return
        self._ends.append((end, written))
        if len(self._ends) == 1:
            self._has_ends.set()

    async def until_kept(self) -> None:
        """Wait until the tasks accepted so far are on the disk. Raises StateUnavailable."""
        await anyio.sleep(HEAD_START)
        await self.archive.ledger.sync()

    def when_kept(self, tell: Callable[[StateUnavailable | None], None]) -> None:
        """Call ``tell`` once they are, together with others, or with the error that came."""
        self._accepted.append(tell)
        if len(self._accepted) == 1:
            self._has_accepted.set()

    async def cancel(self, tasks: Iterable[Task], state: TaskState, reason: str) -> None:
        """End tasks as ``state``, and return when their processes are gone, or resist.

        A function that runs in a thread cannot be stopped: its result is dropped.
        """
        wanted = [task for task in tasks if not task.state.is_final and task.verdict is None]
        for task in wanted:
            task.verdict, task.reason = state, reason
            if task.state is TaskState.PENDING:
                task.end(state, {})
            elif task.work.kind != "executable":
                await self._give_up(task)
        await self._until_over(wanted)

    async def _give_up(self, task: Task) -> None:
        call = task.work.call
        thread = None
        if call is not None:
            call.is_cancelled, thread = True, call.thread
        lane = self._lanes[task.work.backend, task.work.kind]
        await lane.backend.cancel(task.native, thread)

    async def _until_over(self, tasks: list[Task]) -> None:
        give_up = anyio.current_time() + 2 * CANCEL_GRACE
        while left := [task for task in tasks if not task.state.is_final]:
            if anyio.current_time() > give_up:
                for task in left:
                    await self._give_up(task)
                return
            # Again and again: one that was just handed over may not have a process yet.
            marks = {self._mark_of(task) for task in left if task.work.kind == "executable"}
            if marks:
                await self._end_processes(marks.__contains__, CANCEL_GRACE)
            with anyio.move_on_after(LOOK_AGAIN):
                await left[0].change()

    def _mark_of(self, task: Task) -> str:
        return f"{self._mark}/{task.number}"

    async def _end_processes(self, wanted: Callable[[str], bool], grace: float) -> int:
        return await anyio.to_thread.run_sync(end_processes, wanted, grace, limiter=self._limiter)

    def _is_ours(self, mark: str) -> bool:
        return mark.startswith(f"{self._mark}/")

    async def _limit(self, task: Task, seconds: float) -> None:
        while task.state is TaskState.PENDING:
            await task.change()
        with anyio.move_on_after(seconds):
            await task.until_over()
            return
        await self.cancel([task], TaskState.FAILED, f"its time of {seconds:g} s was up")

    async def _keep_accepted(self) -> None:
        while True:
            await self._has_accepted.wait()
            self._has_accepted = anyio.Event()
            await anyio.sleep(HEAD_START)
            told, self._accepted = self._accepted, []
            failure = None
            try:
                await self.archive.ledger.sync()
            except StateUnavailable as error:
                failure = error
            for tell in told:
                tell(failure)
            await anyio.sleep(SYNC_PAUSE)

    async def _keep_results(self) -> None:
        while True:
            await self._has_ends.wait()
            self._has_ends = anyio.Event()
            await anyio.sleep(FIRST_PAUSE)
            pause = WRITE_PAUSE
            try:
                await self._write_ends()
            except StateUnavailable as error:
                logger.error("results are not written, trying again: %s", error.detail)
                pause = RETRY_DELAY
                self._has_ends.set()
            await anyio.sleep(pause)

    async def _write_ends(self) -> None:
        ends, self._ends = self._ends, []
        if not ends:
            return
        try:
            await self.archive.finish([end for end, _ in ends])
            await self.archive.ledger.sync()
        except StateUnavailable:
            self._ends = ends + self._ends
            raise
        for _, written in ends:
            written()

    async def _sweep(self) -> None:
        settings = self.settings
        while True:
            try:
                await self.archive.sweep(
                    keep_days=settings.keep_days,
                    keep_count=settings.keep_count,
                    keep_bytes=settings.keep_bytes,
                )
            except StateUnavailable as error:
                logger.warning("old results go later: %s", error.detail)
            await anyio.sleep(SWEEP_INTERVAL)
