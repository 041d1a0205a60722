import os
import sys

import pytest

from orbit_core.batch import Slurm
from orbit_core.host_role import detect_host
from orbit_core.models import HostInfo, HostRole

pytestmark = pytest.mark.anyio

PYTHON = ".".join(map(str, sys.version_info[:3]))


@pytest.fixture(autouse=True)
def host(tmp_path, monkeypatch):
    for name in ("SLURM_JOB_ID", "PBS_JOBID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def install(folder, name, script):
    path = folder / name
    path.write_text(script)
    path.chmod(0o755)


async def test_a_host_without_a_scheduler_stands_alone():
    assert await detect_host() == HostInfo(HostRole.STANDALONE, "none", "local", None, PYTHON)


@pytest.mark.parametrize(
    ("variable", "scheduler"), [("SLURM_JOB_ID", "slurm"), ("PBS_JOBID", "pbs")]
)
async def test_inside_a_batch_job_the_host_computes(host, monkeypatch, variable, scheduler):
    install(host, "sinfo", "#!/bin/sh\nexit 0\n")
    monkeypatch.setenv(variable, "42")

    assert await detect_host() == HostInfo(HostRole.COMPUTE, scheduler, scheduler, "42", PYTHON)


@pytest.mark.parametrize(("command", "scheduler"), [("sinfo", "slurm"), ("qstat", "pbs")])
async def test_beside_a_scheduler_that_answers_the_host_is_for_logins(host, command, scheduler):
    install(host, command, "#!/bin/sh\n[ $LC_ALL = C ]\n")

    assert await detect_host() == HostInfo(HostRole.LOGIN, scheduler, scheduler, None, PYTHON)


async def test_a_scheduler_that_only_fails_does_not_count(host):
    install(host, "sinfo", "#!/bin/sh\necho no controller >&2; exit 1\n")
    install(host, "qstat", "#!/bin/sh\nexit 0\n")

    assert (await detect_host()).scheduler == "pbs"


async def test_a_scheduler_that_cannot_be_started_is_logged(host, caplog):
    install(host, "sinfo", "#!/no/such/interpreter\n")

    assert (await detect_host()).role is HostRole.STANDALONE
    assert "slurm is installed but does not answer: sinfo cannot be started" in caplog.text


async def test_a_scheduler_that_does_not_answer_in_time_is_logged(host, caplog, monkeypatch):
    monkeypatch.setattr(Slurm.run, "__kwdefaults__", {"deadline": 0.2})
    fifo = host / "never"
    os.mkfifo(fifo)
    install(host, "sinfo", f"#!/bin/sh\nread line < {fifo}\n")

    assert (await detect_host()).role is HostRole.STANDALONE
    assert "--format=%P: no answer within 0.2 s" in caplog.text
