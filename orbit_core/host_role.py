"""Find out what kind of host this is: a scheduler counts only if it answers."""

import sys

from .batch import find_batch_system
from .models import HostInfo, HostRole


async def detect_host() -> HostInfo:
    """Return what this host is: ``compute`` in a batch job, ``login`` beside a scheduler."""
    system = await find_batch_system()
    job_id = system.job_id()
    if job_id is not None:
        role = HostRole.COMPUTE
    else:
        role = HostRole.STANDALONE if system.name == "none" else HostRole.LOGIN
    python = ".".join(map(str, sys.version_info[:3]))
    return HostInfo(role, system.name, system.psij_executor, job_id, python)
