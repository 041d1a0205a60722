"""Find out what kind of host this is: a scheduler counts only if it answers."""

import logging
import os
import shutil
import sys

import anyio

from .models import HostInfo, HostRole

logger = logging.getLogger(__name__)

DEADLINE = 5.0
"""Seconds that a scheduler has to answer."""

_PROBES = {"slurm": ("sinfo", "--noheader", "--format=%P"), "pbs": ("qstat", "-B")}
_JOB_IDS = {"slurm": "SLURM_JOB_ID", "pbs": "PBS_JOBID"}


async def detect_host() -> HostInfo:
    """Return what this host is: ``compute`` in a batch job, ``login`` beside a scheduler."""
    python = ".".join(map(str, sys.version_info[:3]))
    for scheduler, variable in _JOB_IDS.items():
        if job_id := os.environ.get(variable):
            return HostInfo(HostRole.COMPUTE, scheduler, scheduler, job_id, python)
    for scheduler, command in _PROBES.items():
        if await _answers(command):
            return HostInfo(HostRole.LOGIN, scheduler, scheduler, None, python)
    return HostInfo(HostRole.STANDALONE, python_version=python)


async def _answers(command: tuple[str, ...]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        with anyio.fail_after(DEADLINE):
            done = await anyio.run_process(command, check=False, env={**os.environ, "LC_ALL": "C"})
    except (OSError, TimeoutError) as error:
        reason = str(error) or "no answer in time"
        logger.warning("%s is installed but does not answer: %s", command[0], reason)
        return False
    return done.returncode == 0
