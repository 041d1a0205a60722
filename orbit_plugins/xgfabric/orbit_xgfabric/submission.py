"""Submit pilots: child endpoints in batch jobs, each submitted once whoever is restarted."""

import time
from functools import partial
from typing import Any

import anyio

from orbit_core.errors import NameInUse

from .records import PilotRecord
from .run import Run

PLUGINS = "rhapsody"
"""What a pilot serves: its files are those of its cluster."""

CLEARING = 0.5
"""Seconds between looks at a child that is being cleared away."""


def pilot_name(run: Run) -> str:
    """Return what a run's pilot, or the one that it is to submit, is called below its cluster."""
    number = len(run.record.lost_pilots) + 1
    name = f"xgf-{run.run_id.rpartition('-')[2]}"
    return name if number == 1 else f"{name}-{number}"


async def submit(run: Run, cluster: str) -> PilotRecord:
    """Submit a pilot, or find the one that was submitted before. Raises what psij refuses."""
    jobs = await run.site.jobs(cluster)
    found = await run.site.ask(cluster, partial(_submit_or_find, run, jobs, cluster))
    return PilotRecord(
        cluster=cluster,
        endpoint=found["endpoint_name"],
        job_id=found["job_id"],
        submitted=time.time(),
    )


async def _submit_or_find(run: Run, jobs: Any, cluster: str) -> dict[str, Any]:
    """Return the pilot that was submitted before, or submit it; safe to repeat.

    Raises what psij refuses, also a name that stays in use.
    """
    give_up = time.monotonic() + run.site.patience
    while True:
        found = await _find(run, jobs, cluster)
        if found is not None and found["job_id"] is not None:
            return found
        try:
            made: dict[str, Any] = await jobs.submit_tunneled(
                _job_spec(run, cluster),
                await _executor(run, jobs, cluster),
                run.cluster(cluster).tunnel,
                idempotency_key=f"{run.run_id}.{pilot_name(run)}",
            )
            return made
        except NameInUse:  # a submission of before is still under way, or is cleared away
            if time.monotonic() > give_up:
                raise
            await anyio.sleep(CLEARING)


async def _find(run: Run, jobs: Any, cluster: str) -> dict[str, Any] | None:
    name = pilot_name(run)
    for child in await jobs.list_children():
        if child["endpoint_name"] in (name, f"{cluster}.{name}") and child["stage"] != "over":
            return dict(child)
    return None


def _job_spec(run: Run, cluster: str) -> dict[str, Any]:
    config = run.cluster(cluster)
    return {
        "arguments": ["--name", pilot_name(run), "--plugins", PLUGINS],
        "attributes": {
            "duration": int(config.duration),
            "queue_name": config.queue,
            "account": config.account,
        },
        "resources": {"node_count": config.nodes},
        "custom_attributes": dict(config.custom_attributes),
    }


async def _executor(run: Run, jobs: Any, cluster: str) -> str:
    """Return the configured executor, else the scheduler's if there is one."""
    return run.cluster(cluster).executor or str((await jobs.executors())[-1])
