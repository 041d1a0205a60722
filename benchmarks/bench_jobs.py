"""Measure jobs through psij against PSI/J called directly."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from psij import Job, JobExecutor, JobSpec
from sites import ROUNDS, TOKEN, Row, Site

from orbit_core import BridgeClient

JOBS = 100


def through_orbit(site: Site) -> float:
    """Return the seconds in which `JOBS` jobs are submitted through the bridge and seen to end."""
    bridge = site.orbit.removesuffix("/node/load")
    with BridgeClient(bridge, token=TOKEN) as found:
        psij = found.get_endpoint_client("node").get_plugin("psij")
        start = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            jobs = list(pool.map(psij.submit_job, [{"executable": "/bin/true"}] * JOBS))
        while any(job["state"] != "COMPLETED" for job in psij.list_jobs()):
            time.sleep(0.01)
        assert len(jobs) == JOBS
        return time.monotonic() - start


def directly() -> float:
    """Return the seconds that PSI/J takes for the same jobs."""
    executor = JobExecutor.get_instance("local")
    start = time.monotonic()
    jobs = [Job(JobSpec(executable="/bin/true")) for _ in range(JOBS)]
    for job in jobs:
        executor.submit(job)
    for job in jobs:
        job.wait()
    return time.monotonic() - start


def job_row(site: Site) -> Row:
    """Measure both in turns."""
    pairs = [(directly(), through_orbit(site)) for _ in range(ROUNDS)]
    ratio = statistics.median(direct / orbit for direct, orbit in pairs)
    speed = JOBS / statistics.median(orbit for _, orbit in pairs)
    what = f"{JOBS} local jobs through psij"
    return Row(what, ">= 0.8 x PSI/J directly", ratio >= 0.8, f"{ratio:.2f} x ({speed:.0f} jobs/s)")
