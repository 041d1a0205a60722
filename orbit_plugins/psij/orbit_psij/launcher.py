"""Teach PSI/J to start jobs under the script of `orbit_psij.files`.

PSI/J loads this module a second time, by its path (`psij.Launcher.register_launcher`), so what is
compared by class lives elsewhere.
"""

from pathlib import Path

import psij
from packaging.version import Version
from psij.descriptor import Descriptor

from .files import HOST
from .tracked import TrackedJob

NAME = "orbit"

_MISNAMED = {"jsrun": "jrun"}
"""What PSI/J 0.9.11 knows under another name than its documentation says."""


class OrbitLauncher(psij.Launcher):
    """Put the script around a job's own command, or around what another launcher makes of it."""

    def get_launch_command(self, job: psij.Job) -> list[str]:
        """Return the argument vector; the user's own words stand in it as they are."""
        if not isinstance(job, TrackedJob) or job.spec is None:
            raise psij.InvalidJobException("this launcher starts the jobs of ORBIT only")
        mode, command = command_of(job, self.config)
        script = ["/bin/sh", str(job.wrapper), str(job.base), HOST, mode, str(job.input)]
        return [*job.prefix, *script, *command]

    def is_launcher_failure(self, output: str) -> bool:
        """Tell whether the script itself failed: it is silent otherwise."""
        return bool(output.strip())

    def get_launcher_failure_message(self, output: str) -> str:
        """Return the words of the shell."""
        return output.strip()


def command_of(job: TrackedJob, config: psij.JobExecutorConfig | None) -> tuple[str, list[str]]:
    """Return how the script is to start the job's own command or another launcher, and that."""
    assert job.spec is not None
    if job.inner_launcher is None:
        return "direct", [str(job.spec.executable), *(job.spec.arguments or [])]
    known = psij.Launcher.get_launcher_names()
    name = job.inner_launcher if job.inner_launcher in known else _MISNAMED[job.inner_launcher]
    inner = psij.Launcher.get_instance(name, config=config)
    return "launcher", list(map(str, inner.get_launch_command(job)))


def register() -> None:
    """Make PSI/J know the launcher; repeating this changes nothing."""
    root = Path(__file__).resolve().parent.parent
    descriptor = Descriptor(NAME, Version("0.1.0"), "orbit_psij.launcher.OrbitLauncher")
    psij.Launcher.register_launcher(descriptor, str(root))
