"""Install what the site lab runs, from Debian's own packages."""

import os
import subprocess
from pathlib import Path

SLURM = ("slurm-wlm", "munge", "slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server")

_POLICY = Path("/usr/sbin/policy-rc.d")
"""What Debian asks before a package starts its daemon (invoke-rc.d(8)); 101 forbids it."""


def install(*packages: str) -> None:
    """Install the packages that are missing, without starting their daemons; needs root."""
    missing = [package for package in packages if not _is_installed(package)]
    if not missing:
        return
    if os.geteuid() != 0:
        raise RuntimeError(f"the site lab needs root to install {', '.join(missing)}")
    if not _POLICY.exists():
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    command = ("install", "-y", "--no-install-recommends", *missing)
    if _apt(*command).returncode:
        _apt("update").check_returncode()
        _apt(*command).check_returncode()


def _is_installed(package: str) -> bool:
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True).stdout == "installed"


def _apt(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(["apt-get", "-q", *arguments], env=environment)
