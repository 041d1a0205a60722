"""Start daemons that end with whoever started them, and wait until they serve."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PATIENCE = 100.0
"""Seconds in which a daemon must serve, and end, and in which what is awaited must come."""


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look at a condition again and again. Raises TimeoutError that says ``what`` was awaited."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {PATIENCE:g} s")
        time.sleep(0.02)


class Daemons:
    """Own a group of daemons, which write their logs into one folder."""

    def __init__(
        self, logs: Path, environment: Mapping[str, str], inside: Sequence[str] = ()
    ) -> None:
        """Start with none; ``inside`` is what enters the place where they run."""
        self._logs = logs
        self._inside = inside
        self._environment = {**os.environ, **environment}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str | Path) -> None:
        """Run a command that stays in the foreground; it ends when this thread does."""
        bound = ["setpriv", "--pdeathsig", "TERM", "--", *self._inside, *map(str, command)]
        with (self._logs / f"{name}.out").open("ab") as log:
            self._running[name] = subprocess.Popen(
                bound, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self._environment, start_new_session=True,
            )  # fmt: skip

    def wait_for(self, name: str, *probe: str | Path) -> None:
        """Wait until ``probe``, a command that asks the daemon, succeeds.

        Raises RuntimeError with the end of the log if the daemon ends instead, and TimeoutError.
        """
        daemon = self._running[name]

        def serves() -> bool:
            if daemon.poll() is not None:
                log = (self._logs / f"{name}.out").read_text(errors="replace")
                raise RuntimeError(f"{name} ended with {daemon.returncode}: {log[-2000:]}")
            return self.run(*probe).returncode == 0

        wait_until(serves, f"{name} answers")

    def run(self, *command: str | Path, script: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command that reads ``script`` to its end."""
        return subprocess.run(
            [*self._inside, *map(str, command)], input=script, capture_output=True, text=True,
            env=self._environment, timeout=PATIENCE,
        )  # fmt: skip

    def stop(self, *names: str) -> None:
        """End these daemons together, and return when they are gone."""
        ending = [self._running.pop(name) for name in names if name in self._running]
        for daemon in ending:
            daemon.terminate()
        for daemon in ending:
            try:
                daemon.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def send(self, name: str, signal: int) -> None:
        """Send a signal to a daemon, if it is one of these."""
        if name in self._running:
            self._running[name].send_signal(signal)

    def kill(self, name: str) -> None:
        """End a daemon at once, if it is one of these, without letting it know."""
        daemon = self._running.pop(name, None)
        if daemon is not None:
            daemon.kill()
            daemon.wait()

    def stop_all(self) -> None:
        """End all daemons, the latest first."""
        for name in reversed(list(self._running)):
            self.stop(name)
