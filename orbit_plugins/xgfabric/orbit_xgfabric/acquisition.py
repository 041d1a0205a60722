"""Acquire the wind data, choose the winds to simulate, and take the data to the clusters."""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio.to_thread

from orbit_core.errors import StateUnavailable

from .parameters import choose
from .readings import to_csv
from .records import SimulationRecord
from .run import Run
from .sensors import acquire as read_sensors

SENSOR_FILE = Path("data") / "sensor_out.csv"
"""Where the wind data is below a run's directory, here as at the clusters."""


async def acquire(run: Run) -> None:
    """Have wind data, and the simulations that they ask for, on record.

    Raises SensorError if there are no data.
    """
    await run.enter("data_acquisition", 2.0, "acquiring wind data")
    found = await read_sensors(run.workflow, Path(run.record.workdir))
    for problem in found.problems:
        await run.log("warning", problem)
    winds = choose(found.readings, run.workflow.num_simulations)
    await run.journal.save_readings(run.run_id, to_csv(found.readings))
    await run.keep_simulations(
        SimulationRecord(number=number, wind_speed=wind.speed, wind_direction=wind.direction)
        for number, wind in enumerate(winds)
    )
    await run.log("info", f"{len(found.readings)} readings ({found.origin}), {len(winds)} winds")


async def stage(run: Run) -> None:
    """Take the wind data to each cluster of the run.

    Raises StateUnavailable, ClusterLost, and what staging refuses.
    """
    await run.enter("staging", 12.0, f"taking the wind data to {run.immediate}", run.immediate)
    folder, text = run.workflow.local_workspace, await run.journal.readings(run.run_id)
    source = await anyio.to_thread.run_sync(write_local, Path(folder), run.run_id, text)
    for cluster, space in run.record.workspaces.items():
        await run.enter("staging", 12.0, f"taking the wind data to {cluster}", cluster)
        files = await run.site.files(cluster)
        put = partial(files.put, source, space.sensor_file, overwrite=True)
        await run.site.move(cluster, put, run.workflow.timeouts.staging)


def remove_local(folder: Path, run_id: str) -> None:
    """Delete what `write_local` wrote, and leave what somebody else put beside it. It blocks."""
    path = folder.expanduser() / run_id / SENSOR_FILE
    run = path.parent.parent
    with suppress(OSError):
        if run.is_symlink() or path.parent.is_symlink():  # somebody else's doing
            return
        path.unlink(missing_ok=True)
        path.parent.rmdir()
        run.rmdir()


def write_local(folder: Path, run_id: str, text: str) -> Path:
    """Write the wind data of a run, whole or not at all, for this user alone. It blocks.

    Raises StateUnavailable, also if the directory is somebody else's.
    """
    path = folder.expanduser() / run_id / SENSOR_FILE
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.parent.stat().st_uid != os.geteuid():
            raise PermissionError(f"{path.parent} belongs to another user")
        with part.open("w") as file:
            file.write(text)
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise StateUnavailable(
            f"the wind data cannot be written to {path}: {error}; see local_workspace"
        ) from error
    return path
