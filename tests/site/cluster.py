"""Run a real SLURM on this host: four nodes, accounting, two users; no systemd, no cgroups.

``python -m tests.site.cluster`` starts one, prints its environment, and ends it at an interrupt.
"""

import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .daemons import Daemons, wait_until
from .packages import SLURM, install
from .pbs import install_commands
from .settings import ACCOUNTS, HERE, NODES, PASSWORD, USER, Places, Ports, write_settings

_CGROUPS = Path("/sys/fs/cgroup/memory")
_AS_MYSQL = (
    "setpriv",
    "--reuid=mysql",
    "--regid=mysql",
    "--clear-groups",
    "--pdeathsig=TERM",
    "--",
)
"""MariaDB would change its user itself, and thereby no longer end with whoever started it."""

_FOLDERS = ("etc", "log", "munge", "state", "spool", "database", "jobs", "pbs")


class Cluster:
    """Own a cluster whose every file is below ``directory``."""

    def __init__(self, directory: Path, places: Places = HERE) -> None:
        """Prepare the folders; nothing runs yet."""
        self.directory = directory
        self.places = places
        self.environment = {"SLURM_CONF": str(directory / "etc" / "slurm.conf")}
        directory.chmod(0o755)
        for name in _FOLDERS:
            (directory / name).mkdir(mode=0o755)
        self.jobs.chmod(0o1777)
        self._daemons = Daemons(directory / "log", self.environment, places.login)
        self._nodes = Daemons(directory / "log", self.environment, places.compute)
        self._ports = Ports.free()

    @property
    def ports(self) -> Ports:
        """Return the ports that the daemons use."""
        return self._ports

    @property
    def jobs(self) -> Path:
        """Return a folder in which everybody's jobs may write."""
        return self.directory / "jobs"

    @property
    def pbs_commands(self) -> Path:
        """Return the folder of PBS commands that drive this cluster: for the front of ``PATH``."""
        return self.directory / "pbs" / "bin"

    def start(self) -> None:
        """Start everything and wait until each node is idle."""
        _make_user()
        write_settings(self.directory, self._ports, self.places)
        self._start_munge()
        self._start_database()
        self._start_accounting()
        self.start_controller()
        self.start_nodes()
        install_commands(self.directory / "pbs", self.environment)

    def stop(self) -> None:
        """End all jobs, then all daemons: a job's slurmstepd outlives its slurmd otherwise."""
        with suppress(RuntimeError, TimeoutError, subprocess.TimeoutExpired):
            for user in ("root", USER):
                self.run("scancel", f"--user={user}")
            wait_until(lambda: not self.run("squeue", "--noheader"), "the last job ends")
        self._nodes.stop(*NODES)
        self._daemons.stop_all()
        for name in NODES:
            with suppress(OSError):  # another cluster may use it
                _CGROUPS.joinpath(f"slurm_{name}").rmdir()

    def run(self, *command: str | Path, script: str = "") -> str:
        """Run a command of SLURM and return what it prints. Raises RuntimeError if it fails."""
        done = self._daemons.run(*command, script=script)
        if done.returncode:
            raise RuntimeError(
                f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done.stdout.strip()

    def start_controller(self, *options: str) -> None:
        """Start slurmctld."""
        self._daemons.start("slurmctld", "/usr/sbin/slurmctld", "-D", "-i", *options)
        self._daemons.wait_for("slurmctld", "sh", "-c", "scontrol ping | grep -q 'is UP'")

    def stop_controller(self) -> None:
        """End slurmctld; jobs go on, and commands that ask it fail."""
        self._daemons.stop("slurmctld")

    def start_nodes(self) -> None:
        """Start every slurmd."""
        for name in NODES:
            self._nodes.start(name, "/usr/sbin/slurmd", "-D", "-N", name)
        self.wait_for_nodes()

    def forget_jobs(self) -> None:
        """Let slurmctld lose all its jobs, as it does some time after their end."""
        self.stop_controller()
        settings = self.directory / "etc" / "slurm.conf"
        text = settings.read_text()
        used = int(text.partition("FirstJobId=")[2].split()[0])
        settings.write_text(text.replace(f"FirstJobId={used}", f"FirstJobId={used + 10_000}"))
        self.start_controller("-c")
        self.wait_for_nodes()

    def wait_for_nodes(self) -> None:
        """Wait until each node can take jobs."""
        query = ("sinfo", "--noheader", "--Node", "--partition=debug", "--format=%T")
        usable = {"idle", "mixed", "allocated"}
        wait_until(lambda: set(self.run(*query).split()) <= usable, "all nodes are up")

    def _start_munge(self) -> None:
        home = self.directory / "munge"
        key = home / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        log = self.directory / "log" / "munged.log"
        files = {"key-file": key, "socket": home / "socket", "seed-file": home / "seed",
                 "pid-file": home / "pid", "log-file": log}  # fmt: skip
        options = [f"--{name}={path}" for name, path in files.items()]
        self._daemons.start("munged", "/usr/sbin/munged", "--foreground", "--force", *options)
        self._daemons.wait_for("munged", "munge", "-n", "-S", home / "socket")

    def _start_database(self) -> None:
        home = self.directory / "database"
        shutil.chown(home, "mysql", "mysql")
        made = self._daemons.run(
            "mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={home}",
            "--skip-test-db", "--auth-root-authentication-method=socket",
        )  # fmt: skip
        if made.returncode:
            raise RuntimeError(f"mariadb-install-db failed: {made.stdout}{made.stderr}")
        self._daemons.start(
            "mariadbd", *_AS_MYSQL, "/usr/sbin/mariadbd", "--no-defaults", f"--datadir={home}",
            f"--socket={home}/socket", f"--pid-file={home}/pid", "--bind-address=127.0.0.1",
            f"--port={self._ports.database}", "--innodb-buffer-pool-size=64M",
            "--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0",
        )  # fmt: skip
        client = ("mariadb", "--no-defaults", "--user=root", f"--socket={home}/socket", "--execute")
        self._daemons.wait_for("mariadbd", *client, "select 1")
        self.run(*client, "create database slurm_acct_db;" + "".join(
            f"create user slurm@'{host}' identified by '{PASSWORD}';"
            f"grant all on slurm_acct_db.* to slurm@'{host}';"
            for host in ("127.0.0.1", "localhost")
        ))  # fmt: skip

    def _start_accounting(self) -> None:
        self._daemons.start("slurmdbd", "/usr/sbin/slurmdbd", "-D")
        self._daemons.wait_for("slurmdbd", "sacctmgr", "--noheader", "show", "cluster")
        # Its exit status is 1 even when all went well: ask for what the last lines add instead.
        told = self._daemons.run("sacctmgr", "--immediate", script=ACCOUNTS)
        query = ("show", "assoc", f"user={USER}", "account=proj2", "format=qos")
        if "high" not in self.run("sacctmgr", "--noheader", *query):
            raise RuntimeError(f"sacctmgr did not make the accounts: {told.stdout}{told.stderr}")


def _make_user() -> None:
    """Make the second user; it stays on this host, which other clusters may share."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--create-home", "--shell=/bin/bash", USER], check=True)


@contextmanager
def open_cluster(places: Places = HERE) -> Iterator[Cluster]:
    """Run a cluster while the context is open."""
    install(*SLURM)
    with tempfile.TemporaryDirectory(prefix="orbit-site-") as folder:
        cluster = Cluster(Path(folder), places)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def main() -> None:
    """Run a cluster until an interrupt."""
    with open_cluster() as cluster:
        for name, value in cluster.environment.items():
            print(f"export {name}={value}")
        print(f"export PATH={cluster.pbs_commands}:$PATH  # for the PBS commands", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
