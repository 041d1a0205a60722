"""Run a bridge and endpoints in processes of their own, which a test may kill and start again."""

import os
import random
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import httpx
import psutil
from anyio.abc import Process

from orbit_core.client import AsyncBridgeClient

ROOT = Path(__file__).parent.parent
SERVE = Path(sys.executable).with_name("orbit-serve")
START_TIMEOUT = 30.0
PLUGINS = """[orbit.plugins]
probe = tests.probe_plugin:ProbePlugin
notes = tests.notes_plugin:NotesPlugin
"""


class Site:
    """Be one bridge and its endpoints, which find it, and their own state, in one folder.

    Besides what is installed they have the plugins `PLUGINS`. Each writes its log to ``NAME.log``.
    """

    def __init__(self, folder: Path) -> None:
        self.port = quiet_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self._running: dict[str, Process] = {}
        offered = folder / "site" / "orbit_tested-0.dist-info"
        offered.mkdir(parents=True)
        (offered / "METADATA").write_text("Metadata-Version: 2.1\nName: orbit-tested\nVersion: 0\n")
        (offered / "entry_points.txt").write_text(PLUGINS)
        self._environment = {
            **{key: value for key, value in os.environ.items() if "ORBIT_" not in key},
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "PYTHONPATH": f"{offered.parent}:{ROOT}",
        }

    @property
    def token(self) -> str:
        """Return the administrator's token, which the first start of the bridge makes."""
        return (self.folder / "state" / "orbit" / "bridge" / "admin.token").read_text()

    async def start_bridge(self) -> None:
        """Start the bridge and wait until it is ready."""
        await self._start("bridge", "--role", "bridge", "--port", str(self.port), "--plugins", "")

    async def start_endpoint(self, name: str, plugins: str) -> None:
        """Start an endpoint, for the first time or again, and wait until it is linked."""
        await self._start(name, "--role", "endpoint", "--name", name, "--plugins", plugins)

    async def kill(self, name: str) -> None:
        """End a process as abruptly as the kernel can."""
        process = self._running.pop(name)
        process.kill()
        await process.aclose()

    def is_running(self, name: str) -> bool:
        """Tell whether a process was started and not killed."""
        return name in self._running

    def pid(self, name: str) -> int:
        """Return a process's id."""
        return self._running[name].pid

    def memory(self, name: str) -> int:
        """Return the bytes that a process has in memory."""
        return int(psutil.Process(self._running[name].pid).memory_info().rss)

    def peak_memory(self, name: str) -> int:
        """Return the most bytes that a process has had in memory."""
        status = Path(f"/proc/{self._running[name].pid}/status").read_text()
        (kibibytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        return int(kibibytes) * 1024

    def client(self) -> AsyncBridgeClient:
        """Return a client that speaks for the administrator."""
        return AsyncBridgeClient(self.url, token=self.token)

    def http(self) -> httpx.AsyncClient:
        """Return a plain HTTP client, which repeats nothing and waits for ever."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=None)

    def kill_left(self) -> None:
        """End what an endpoint started and outlived it, such as a job or a child endpoint."""
        for process in psutil.process_iter(["cmdline"]):
            if any(f"{self.folder}/" in word for word in process.info["cmdline"] or []):
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    async def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = await anyio.open_process(
                [str(SERVE), *arguments], env=self._environment, stderr=log
            )
        self._running[name] = process
        assert process.stdout is not None
        with anyio.fail_after(START_TIMEOUT):
            said = await process.stdout.receive()
        assert b" ready: " in said, said


def quiet_port() -> int:
    """Return a free port that no outgoing connection takes while nobody listens there.

    Linux gives those the ports from 32768 on.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


@asynccontextmanager
async def open_site(folder: Path) -> AsyncIterator[Site]:
    """Run a bridge while the context is open, with the endpoints that are started meanwhile."""
    site = Site(folder)
    try:
        await site.start_bridge()
        yield site
    finally:
        with anyio.CancelScope(shield=True):
            for name in list(site._running):
                await site.kill(name)
            site.kill_left()
