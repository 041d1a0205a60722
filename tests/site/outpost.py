"""Run a bridge and a login endpoint in the places of a network; a test may kill them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import trustme

from orbit_core.client import AsyncBridgeClient

from .cluster import Cluster
from .daemons import PATIENCE, Daemons, wait_until
from .network import BRIDGE, BRIDGE_PORT, Network

SERVE, ORBIT = (Path(sys.executable).with_name(name) for name in ("orbit-serve", "orbit"))

SETTINGS = """\
[plugin.psij.children]
login_host = "login"
ssh_options = ["-F", {ssh_config}]
setup = ["export ORBIT_TEST_SETUP=done"]
"""


class Outpost:
    """Own one bridge and one login endpoint, whose every file is below ``directory``."""

    def __init__(
        self,
        directory: Path,
        network: Network,
        cluster: Cluster,
        scheduler: str = "slurm",
        settings: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare certificates and settings; nothing runs yet.

        With the ``scheduler`` pbs the login host has the commands of PBS, and none of SLURM's works
        there. ``settings`` are more of the endpoints', and ``environment`` is of all processes.
        """
        self.directory = directory
        self.network = network
        self.cluster = cluster
        self.cert = directory / "bridge.pem"
        issued = trustme.CA().issue_cert(BRIDGE, network.bridge_from_here)
        issued.cert_chain_pems[0].write_to_path(str(self.cert))
        issued.private_key_pem.write_to_path(str(directory / "bridge.key"))
        (directory / "bridge.key").chmod(0o600)
        written = SETTINGS.format(ssh_config=json.dumps(str(network.ssh_config())))
        (directory / "orbit.toml").write_text(written + settings)
        self.scheduler = scheduler
        state = {"XDG_STATE_HOME": str(directory / "state"), **(environment or {})}
        self._outside = Daemons(directory, state, network.inside("bridge"))
        pbs = {"PATH": f"{cluster.pbs_commands}:{os.environ['PATH']}"}
        commands = pbs if scheduler == "pbs" else cluster.environment
        self._login = Daemons(directory, {**state, **commands}, network.inside("login"))

    @property
    def children(self) -> Path:
        """Return the folder in which the login endpoint keeps what its children need."""
        return self.directory / "login" / "plugins" / "psij" / "children"

    def client(self) -> AsyncBridgeClient:
        """Return a client that speaks for the administrator, from this host."""
        token = (self.directory / "bridge" / "admin.token").read_text()
        url = f"https://{self.network.bridge_from_here}:{BRIDGE_PORT}"
        return AsyncBridgeClient(url, self.cert, token)

    def start_bridge(self) -> None:
        """Start the bridge, for the first time or again."""
        self._outside.start(
            "bridge", SERVE, "--role", "bridge", "--host", "0.0.0.0", "--port", str(BRIDGE_PORT),
            "--cert", self.cert, "--key", self.directory / "bridge.key", "--plugins", "",
            "--state-dir", self.directory / "bridge",
        )  # fmt: skip
        path = f"https://{BRIDGE}:{BRIDGE_PORT}/health"
        self._outside.wait_for("bridge", "curl", "-fsS", "--cacert", self.cert, path)

    async def start_login(self, plugins: str = "psij") -> None:
        """Start the login endpoint, for the first time or again, and wait until it is linked."""
        await self._start_endpoint(self._login, "login", plugins)

    async def start_sensors(self, plugins: str) -> None:
        """Do the same with an endpoint beside the bridge, where sensors could be read."""
        await self._start_endpoint(self._outside, "sensors", plugins)

    async def _start_endpoint(self, daemons: Daemons, name: str, plugins: str) -> None:
        file = self.directory / f"{name}.token"
        async with self.client() as client:
            if not file.exists():
                made = await client.create_token("endpoint", "admin", endpoint=name)
                file.touch(0o600)
                file.write_text(made["token"])
            daemons.start(
                name, SERVE, "--role", "endpoint", "--name", name, "--url",
                f"https://{BRIDGE}:{BRIDGE_PORT}", "--cert", self.cert, "--token-file", file,
                "--plugins", plugins, "--state-dir", self.directory / name, "--config",
                self.directory / "orbit.toml",
            )  # fmt: skip
            await client.wait_for_endpoint(name, timeout=PATIENCE)

    async def orbit(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run the command line as the administrator, from this host."""
        url = f"https://{self.network.bridge_from_here}:{BRIDGE_PORT}"
        token = self.directory / "bridge" / "admin.token"
        options = ["--url", url, "--cert", str(self.cert), "--token-file", str(token)]
        return await anyio.run_process([str(ORBIT), *options, *arguments])

    def kill(self, name: str) -> None:
        """End the bridge or the login endpoint as abruptly as the kernel can."""
        for owner in (self._outside, self._login):
            owner.kill(name)

    def freeze(self, name: str) -> None:
        """Have an endpoint answer nobody."""
        self._send(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Have it go on."""
        self._send(name, signal.SIGCONT)

    def _send(self, name: str, number: int) -> None:
        for owner in (self._outside, self._login):
            owner.send(name, number)

    def stop(self) -> None:
        """End both."""
        self._login.stop_all()
        self._outside.stop_all()

    def tunnels(self, *arguments: str) -> list[psutil.Process]:
        """Return the ssh processes that were given each of the arguments."""
        return [
            process
            for process in psutil.process_iter(["name", "cmdline"])
            if process.info["name"] == "ssh" and {*arguments} <= {*(process.info["cmdline"] or [])}
        ]

    def child_processes(self, name: str) -> list[psutil.Process]:
        """Return the processes that are the child endpoint called ``name``."""
        words = {"orbit_core.serve", name}
        return [process for process in self._processes() if words <= {*process.info["cmdline"]}]

    def _processes(self) -> list[psutil.Process]:
        """Return the processes whose command lines name a file or folder of a child."""
        within = str(self.children)
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(within in argument for argument in process.info["cmdline"] or [])
        ]

    def logs(self) -> list[Path]:
        """Return every log, and what jobs printed."""
        jobs = (self.directory / "login" / "plugins" / "psij").rglob("*")
        slurm = (self.cluster.directory / "log").iterdir()
        found = [*self.directory.glob("*.out"), *jobs, *slurm]
        return [path for path in found if path.is_file() and path.name != "token"]

    def traces(self) -> list[str]:
        """Return what is left of children: processes, ssh connections, files, jobs."""
        found = [" ".join(process.info["cmdline"]) for process in self._processes()]
        found += self.network.ssh_sessions()
        if self.children.exists():
            found += [str(path) for path in self.children.iterdir() if path.is_dir()]
        return found + self.cluster.run("squeue", "--noheader", "--format=%i %j").splitlines()

    def wait_until_clear(self) -> None:
        """Wait until nothing is left of children."""
        try:
            wait_until(lambda: not self.traces(), "everything of the children is gone")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.traces()}") from None


@asynccontextmanager
async def open_outpost(
    *place: Any, plugins: str = "psij", **settings: Any
) -> AsyncIterator[Outpost]:
    """Have an outpost whose bridge and login endpoint run, the latter with ``plugins``."""
    found = Outpost(*place, **settings)
    try:
        found.start_bridge()
        await found.start_login(plugins)
        yield found
    finally:
        found.stop()
