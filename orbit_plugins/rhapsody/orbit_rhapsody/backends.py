"""Start RHAPSODY's backends and hand them tasks: the one module that calls RHAPSODY.

It is imported, which takes half a second, when the first backend starts.
"""

import asyncio
import concurrent.futures
import importlib
import importlib.util
import logging
import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.to_thread
import attrs

from .loop_thread import LoopThread
from .models import RhapsodySettings
from .threads import DaemonThreads

logger = logging.getLogger(__name__)

if importlib.util.find_spec("rhapsody") is None:
    raise ModuleNotFoundError("No module named 'rhapsody'", name="rhapsody")

CLOSE_TIMEOUT = 10.0
"""Seconds that a backend has to end."""

AI_BACKENDS = frozenset({"noop", "dragon_v3"})
"""The backends that run AI tasks."""

DEFAULT = "dragon_v3" if importlib.util.find_spec("dragon") else "concurrent"
"""The backend of a session that names none."""


OnEnd = Callable[[Any, "asyncio.Future[Any]"], None]


class AnyBackend(Protocol):
    """Run tasks on one of RHAPSODY's backends."""

    name: str
    workers: int

    def make(self, uid: str, *, is_ai: bool, **fields: Any) -> Any:
        """Make a task of RHAPSODY's, an ``AITask`` or a ``ComputeTask``."""
        ...

    async def submit(self, tasks: list[Any], on_end: OnEnd) -> None:
        """Hand tasks over; ``on_end(task, future)`` is called once each is over."""
        ...

    async def cancel(self, task: Any, thread: int | None) -> None:
        """Have a task given up; ``thread`` is the one that its function holds, if it holds one."""
        ...

    def forget(self, task: Any) -> None:
        """Let go of a finished task."""
        ...

    async def close(self) -> None:
        """End the backend."""
        ...


@attrs.define(eq=False)
class Backend:
    """Be one running backend; RHAPSODY may know it by another name: ``dragon_v3`` is ``dragon``."""

    name: str
    workers: int
    _library: Any
    _session: Any
    _backend: Any
    _is_measured: bool
    _threads: DaemonThreads | None = None

    def make(self, uid: str, *, is_ai: bool, **fields: Any) -> Any:
        """Make a task of RHAPSODY's, an ``AITask`` or a ``ComputeTask``.

        A function becomes a dictionary, which RHAPSODY takes as well and which is made ten times
        as fast; telemetry knows tasks by their class.
        """
        if "function" in fields and not self._is_measured:
            return {"uid": uid, "backend": self._backend.name, **fields}
        if "executable" in fields and self.name == "dragon_v3":
            options = templated(fields["task_backend_specific_kwargs"])
            fields = {**fields, "task_backend_specific_kwargs": options}
        kind = self._library.AITask if is_ai else self._library.ComputeTask
        return kind(uid=uid, backend=self._backend.name, **fields)

    async def submit(self, tasks: list[Any], on_end: OnEnd) -> None:
        """Hand tasks over; ``on_end(task, future)`` is called once each is over."""
        for task, future in zip(tasks, await self._session.submit_tasks(tasks), strict=True):
            future.add_done_callback(partial(on_end, task))

    async def cancel(self, task: Any, thread: int | None) -> None:
        """Have a task given up; a thread that its function holds is replaced."""
        await self._backend.cancel_task(task["uid"])
        if thread is not None and self._threads is not None:
            self._threads.replace(thread)

    def forget(self, task: Any) -> None:
        """Let go of a finished task: RHAPSODY keeps each for ever, and has no API to drop one."""
        self._session._tasks.pop(task["uid"], None)
        getattr(self._backend, "tasks", {}).pop(task["uid"], None)

    async def close(self) -> None:
        """End the backend; one that dawdles is left alone."""
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            try:
                await self._session.close()
            except Exception:  # a backend may fail in any way
                logger.exception("backend %s failed to end", self.name)


def templated(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of an executable as Dragon takes them: ``env`` and ``cwd`` in templates.

    What the user's own ``process_template`` or ``process_templates`` say outweighs them.
    """
    shared = {key: options[key] for key in ("env", "cwd") if options.get(key) is not None}
    found = {key: value for key, value in options.items() if key not in shared}

    def fill(template: dict[str, Any]) -> dict[str, Any]:
        environment = {**shared.get("env", {}), **template.get("env", {})}
        return {**shared, **template, "env": environment}

    if found.get("process_templates") is not None:
        found["process_templates"] = [
            (ranks, fill(template)) for ranks, template in found["process_templates"]
        ]
    else:
        found["process_template"] = fill(found.get("process_template") or {})
    return found


class BackendInThread:
    """Be a backend that runs in a loop of its own, for executables."""

    def __init__(self, thread: LoopThread, backend: Backend) -> None:
        """Stand for ``backend``, which was started in ``thread``."""
        self.name = backend.name
        self.workers = backend.workers
        self.make = backend.make
        self._thread = thread
        self._backend = backend

    async def submit(self, tasks: list[Any], on_end: OnEnd) -> None:
        """Hand tasks over; ``on_end(task, future)`` is called here once each is over."""

        def end_there(task: Any, future: "asyncio.Future[Any]") -> None:
            self._backend.forget(task)
            self._thread.send_home(partial(on_end, task, future))

        await self._thread.call(self._backend.submit, tasks, end_there)

    async def cancel(self, task: Any, thread: int | None) -> None:
        """Have a task given up; ``thread`` is the one that its function holds, if it holds one."""
        await self._thread.call(self._backend.cancel, task, thread)

    def forget(self, task: Any) -> None:
        """Do nothing: that is done in the thread."""

    async def close(self) -> None:
        """End the backend and its thread."""
        await self._thread.call(self._backend.close)
        self._thread.stop()


async def start_in_thread(name: str, settings: RhapsodySettings, directory: Path) -> AnyBackend:
    """Start a backend for executables, in a loop of its own."""
    thread = LoopThread()
    return BackendInThread(thread, await thread.call(start_backend, name, settings, directory))


async def start_backend(name: str, settings: RhapsodySettings, directory: Path) -> Backend:
    """Start a backend; it raises whatever RHAPSODY does."""
    rhapsody: Any = await anyio.to_thread.run_sync(importlib.import_module, "rhapsody")
    logging.getLogger("rhapsody").setLevel(logging.WARNING)
    workers = settings.function_workers or processors()
    threads: DaemonThreads | None = None
    match name:
        case "concurrent" if settings.function_processes:
            context = multiprocessing.get_context("forkserver")
            pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context)
            backend = await rhapsody.get_backend(name, executor=pool)
        case "concurrent":
            threads = DaemonThreads(workers)
            backend = await rhapsody.get_backend(name, executor=threads)
        case "dask":
            # Its web server would take port 8787 on every network.
            served = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
            cluster = {"n_workers": workers, "threads_per_worker": 1, "scheduler_kwargs": served}
            backend = await rhapsody.get_backend(name, resources=cluster)
        case _:
            backend = await rhapsody.get_backend(name)
    session = rhapsody.Session(backends=[backend], work_dir=str(directory))
    if settings.telemetry:
        await session.start_telemetry()
    return Backend(name, workers, rhapsody, session, backend, settings.telemetry, threads)


def processors() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0))
