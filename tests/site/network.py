"""Make a site's network on this host: a bridge outside, a login host, and compute nodes behind it.

Three network namespaces, with a real sshd in two of them and a real HTTP proxy on the login host.
What may pass from the nodes outwards, and between them and the login host, is a test's choice.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import attrs
import psutil

from .daemons import Daemons, wait_until
from .packages import install
from .settings import Places, Ports

PACKAGES = ("openssh-server", "openssh-client", "iproute2", "nftables", "tinyproxy-bin")

BRIDGE, LOGIN_OUT = "10.77.1.1", "10.77.1.2"
LOGIN, COMPUTE = "10.77.2.1", "10.77.2.2"
SSH_PORT, PROXY_PORT, BRIDGE_PORT = 2222, 3128, 8443
PROXY = f"http://site:secret@{LOGIN}:{PROXY_PORT}"

Passage = Literal["outwards", "ssh-to-login", "ssh-to-compute", "proxy", "tcp-to-login"]


@attrs.frozen
class Network:
    """Own namespaces called after ``name``; ``here`` is this host's address towards the bridge."""

    name: str
    directory: Path
    number: int

    @property
    def bridge_from_here(self) -> str:
        """Return the bridge's address for this host."""
        return f"10.78.{self.number}.2"

    def inside(self, place: str) -> tuple[str, ...]:
        """Return the command that enters a place; /sys stays, unlike with ``ip netns exec``."""
        return ("nsenter", f"--net=/run/netns/{self.name}-{place}", "--")

    def places(self) -> Places:
        """Return where a cluster runs in it."""
        return Places(LOGIN, COMPUTE, self.inside("login"), self.inside("compute"))

    def ssh_config(self) -> Path:
        """Return the client's configuration, by which hosts are known."""
        return self.directory / "ssh_config"

    def allow(self, ports: Ports, *passages: Passage) -> None:
        """Let new connections pass so, besides the cluster's own; drop all others."""
        cluster = ", ".join(map(str, (ports.controller, ports.accounting)))
        nodes = ", ".join(map(str, ports.nodes))
        to_login = [f"tcp dport {{ {cluster} }} accept"]
        to_compute = [f"tcp dport {{ {nodes} }} accept"]
        if "ssh-to-login" in passages:
            to_login.append(f"tcp dport {SSH_PORT} accept")
        if "proxy" in passages:
            to_login.append(f"tcp dport {PROXY_PORT} accept")
        if "tcp-to-login" in passages:
            to_login.append(f"tcp dport != {{ {SSH_PORT}, {PROXY_PORT} }} accept")
        if "ssh-to-compute" in passages:
            to_compute.append(f"tcp dport {SSH_PORT} accept")
        outwards = "accept" if "outwards" in passages else "drop"
        self._filter(
            "login", _chain("input", "compute0", to_login)
            + f"chain forward {{ type filter hook forward priority 0; "
            f'iifname "compute0" {outwards}; }}\n',
        )  # fmt: skip
        self._filter("compute", _chain("input", "login0", to_compute))

    def _filter(self, place: str, chains: str) -> None:
        rules = f"flush ruleset\ntable inet orbit {{\n{chains}}}\n"
        subprocess.run([*self.inside(place), "nft", "-f", "-"], input=rules, text=True, check=True)

    def namespace(self, place: str) -> str:
        """Return what ``/proc/self/ns/net`` leads to for a process in a place."""
        return f"net:[{Path(f'/run/netns/{self.name}-{place}').stat().st_ino}]"

    def ssh_sessions(self) -> list[str]:
        """Return the connections that either sshd serves: each is a child process of it."""
        found = []
        for process in psutil.process_iter(["name", "cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if process.info["name"] == "sshd" and str(self.directory) in line:
                with suppress(psutil.NoSuchProcess):
                    found += [str(session) for session in process.children()]
        return found

    def make(self) -> None:
        """Make namespaces, links, addresses and routes."""
        here, away = f"orb{self.number}h", f"orb{self.number}b"
        for place in ("bridge", "login", "compute"):
            _ip("netns", "add", f"{self.name}-{place}")
            self._in(place, "link", "set", "lo", "up")
        _ip("link", "add", here, "type", "veth", "peer", "name", away)
        _ip("link", "set", away, "netns", f"{self.name}-bridge", "name", "here0")
        _ip("addr", "add", f"10.78.{self.number}.1/30", "dev", here)
        _ip("link", "set", here, "up")
        self._address("bridge", "here0", f"{self.bridge_from_here}/30")
        self._join(("bridge", "login0", BRIDGE), ("login", "bridge0", LOGIN_OUT))
        self._join(("login", "compute0", LOGIN), ("compute", "login0", COMPUTE))
        self._in("compute", "route", "add", "default", "via", LOGIN)
        self._in("bridge", "route", "add", "10.77.2.0/24", "via", LOGIN_OUT)
        subprocess.run(
            [*self.inside("login"), "sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True
        )

    def remove(self) -> None:
        """Remove the namespaces, and with them everything in them."""
        for place in ("bridge", "login", "compute"):
            subprocess.run(["ip", "netns", "del", f"{self.name}-{place}"], check=False)

    def _join(self, *ends: tuple[str, str, str]) -> None:
        (one, one_device, one_address), (other, other_device, other_address) = ends
        self._in(one, "link", "add", one_device, "type", "veth", "peer", "name", other_device,
                 "netns", f"{self.name}-{other}")  # fmt: skip
        self._address(one, one_device, f"{one_address}/24")
        self._address(other, other_device, f"{other_address}/24")

    def _address(self, place: str, device: str, address: str) -> None:
        self._in(place, "addr", "add", address, "dev", device)
        self._in(place, "link", "set", device, "up")

    def _in(self, place: str, *arguments: str) -> None:
        _ip("-n", f"{self.name}-{place}", *arguments)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _chain(hook: str, device: str, accepted: Sequence[str]) -> str:
    """Return a chain that drops new TCP connections from a device, but those accepted."""
    rules = "".join(f'iifname "{device}" {rule};\n' for rule in accepted)
    new = f'iifname "{device}" tcp flags & (syn | ack) == syn drop;\n'
    return f"chain {hook} {{ type filter hook {hook} priority 0;\n{rules}{new}}}\n"


SSHD = """\
Port {port}
ListenAddress 0.0.0.0
HostKey {directory}/hostkey
PidFile none
AuthorizedKeysFile {directory}/id.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
"""

CLIENT = """\
Host login
  HostName {login}
Host node*
  HostName {compute}
Host *
  Port {port}
  IdentityFile {directory}/id
  IdentitiesOnly yes
"""

TINYPROXY = """\
Port {port}
Listen {login}
Timeout 600
LogLevel Info
ConnectPort {bridge}
BasicAuth site secret
"""


def _write_settings(directory: Path) -> None:
    for name in ("id", "hostkey"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)]
        subprocess.run(command, check=True)
    values = {"port": SSH_PORT, "directory": directory, "login": LOGIN, "compute": COMPUTE}
    (directory / "sshd_config").write_text(SSHD.format(**values))
    (directory / "ssh_config").write_text(CLIENT.format(**values))
    proxy = {"port": PROXY_PORT, "login": LOGIN, "bridge": BRIDGE_PORT}
    (directory / "tinyproxy.conf").write_text(TINYPROXY.format(**proxy))


@contextmanager
def open_network() -> Iterator[Network]:
    """Run a network with its daemons while the context is open; needs root."""
    install(*PACKAGES)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="orbit-net-") as folder:
        directory = Path(folder)
        network = Network(f"orbit{os.getpid()}", directory, os.getpid() % 250)
        _write_settings(directory)
        daemons = [Daemons(directory, {}, network.inside(place)) for place in ("login", "compute")]
        try:
            network.make()
            for owner in daemons:
                sshd = ("/usr/sbin/sshd", "-D", "-e", "-f", directory / "sshd_config")
                owner.start("sshd", *sshd)
            daemons[0].start("tinyproxy", "tinyproxy", "-d", "-c", directory / "tinyproxy.conf")
            for owner, address in zip(daemons, (LOGIN, COMPUTE), strict=True):
                key = ("ssh-keyscan", "-p", str(SSH_PORT), address)
                wait_until(lambda o=owner, k=key: b"ssh" in o.run(*k).stdout.encode(), "sshd")
            yield network
        finally:
            for owner in daemons:
                owner.stop_all()
            network.remove()
