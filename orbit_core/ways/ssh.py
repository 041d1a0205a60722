"""Keep an ssh that forwards a port: never asking, checking host keys, ending with its owner."""

import os
import re
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE

import anyio
import attrs
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from orbit_core._tasks import open_tasks
from orbit_core.errors import NoRoute

END_PATIENCE = 3.0
"""Seconds in which ssh ends by itself."""

CONNECT_TIMEOUT = 10

LINE_LIMIT = 16 * 1024

_LEASH = Path(__file__).with_name("leash.py")
_ALLOCATED = re.compile(r"Allocated port (\d+) for remote forward")
_NOISE = re.compile(
    r"debug\d:|OpenSSH_|Authenticated to|Transferred:|Bytes per second|Warning: Perm"
)


@attrs.frozen
class SSHSettings:
    """Say how to use ssh: a file of known hosts, whether it may learn new ones, and more options.

    What is set here cannot be undone by ``options``: ssh takes the first that it hears (ssh(1)).
    """

    known_hosts: str
    trust_new_hosts: bool = True
    options: Sequence[str] = ()

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of an ssh that only forwards."""
        checking = "accept-new" if self.trust_new_hosts else "yes"
        settings = {
            "StrictHostKeyChecking": checking,
            "UserKnownHostsFile": f'"{self.known_hosts}"',
            "BatchMode": "yes",
            "ExitOnForwardFailure": "yes",
            "ServerAliveInterval": "10",
            "ServerAliveCountMax": "3",
            "ConnectTimeout": str(CONNECT_TIMEOUT),
            "ControlMaster": "no",
            "ControlPath": "none",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "PermitLocalCommand": "no",
        }
        given = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
        return ["ssh", "-N", "-v", *given, *self.options, *arguments]


@attrs.define(eq=False)
class Tunnel:
    """Be one open tunnel: its ``port`` on the host where it begins, and the process of ssh."""

    port: int
    pid: int
    ended: anyio.Event = attrs.field(factory=anyio.Event)


@asynccontextmanager
async def open_forward(
    settings: SSHSettings, host: str, port: int, target: str, *, patience: float
) -> AsyncIterator[Tunnel]:
    """Forward ``port`` of this host to ``target``, a HOST:PORT, as ``host`` sees it (ssh -L).

    Raises NoRoute, with ssh's own words, if it is not open within ``patience`` seconds.
    """
    command = settings.command("-L", f"127.0.0.1:{port}:{target}", "--", host)
    listening = re.compile(rf"Local forwarding listening on 127\.0\.0\.1 port ({port})\.")
    async with _open(command, listening, host, patience) as tunnel:
        yield tunnel


@asynccontextmanager
async def open_reverse(
    settings: SSHSettings, host: str, target: str, *, patience: float
) -> AsyncIterator[Tunnel]:
    """Forward a free port of ``host`` to ``target``, a HOST:PORT, as seen from here (ssh -R).

    Raises NoRoute, with ssh's own words, if it is not open within ``patience`` seconds.
    """
    command = settings.command("-R", f"127.0.0.1:0:{target}", "--", host)
    async with _open(command, _ALLOCATED, host, patience) as tunnel:
        yield tunnel


@asynccontextmanager
async def _open(
    command: list[str], opened: re.Pattern[str], host: str, patience: float
) -> AsyncIterator[Tunnel]:
    leash = [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid())]
    try:
        with anyio.CancelScope(shield=True):  # a process that nobody holds would stay
            process = await anyio.open_process(
                [*leash, *command], stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
            )
    except OSError as error:
        raise NoRoute(f"ssh cannot be started: {error}") from None
    try:
        assert process.stderr is not None
        lines = BufferedByteReceiveStream(process.stderr)
        words: deque[str] = deque(maxlen=3)
        port = None
        with anyio.move_on_after(patience) as waiting:
            port = await _port(lines, opened, words)
        if port is None:
            said = "; ".join(words) or "it said nothing"
            late = f" (not open within {patience:g} s)" if waiting.cancelled_caught else ""
            raise NoRoute(f"ssh to {host}: {said}{late}")
        tunnel = Tunnel(port, process.pid)
        async with open_tasks() as group:
            group.start_soon(_drain, lines, tunnel)
            yield tunnel
    finally:
        await _end(process)


async def _port(
    lines: BufferedByteReceiveStream, opened: re.Pattern[str], words: deque[str]
) -> int | None:
    """Read until ssh names the port, keeping what it says to people; None if it ends before."""
    while True:
        try:
            line = (await lines.receive_until(b"\n", LINE_LIMIT)).decode(errors="replace").strip()
        except (anyio.IncompleteRead, anyio.DelimiterNotFound, anyio.ClosedResourceError):
            return None
        if found := opened.search(line):
            return int(found[1])
        if line and not _NOISE.match(line):
            words.append(line)


async def _drain(lines: BufferedByteReceiveStream, tunnel: Tunnel) -> None:
    """Take what ssh goes on to say, lest it stop at a full pipe, and note its end."""
    try:
        while True:
            await lines.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        tunnel.ended.set()


async def _end(process: Process) -> None:
    """End ssh, and return when it is gone."""
    with anyio.CancelScope(shield=True):
        with suppress(ProcessLookupError):
            process.terminate()
        with anyio.move_on_after(END_PATIENCE):
            await process.wait()
        if process.returncode is None:
            process.kill()
        await process.aclose()
