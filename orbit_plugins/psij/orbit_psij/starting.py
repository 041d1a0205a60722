"""Start PSI/J. Importing this loads it, which is a good part of an endpoint's start."""

from collections.abc import Callable
from pathlib import Path

import anyio.to_thread

from .batch_jobs import BatchJobs, Enter, Finish
from .batches import find_batches
from .executors import Executors
from .job import Report
from .means import Means


async def open_means(
    directory: Path,
    scheduler: str,
    in_use: set[str],
    *,
    hear: Callable[[Report], None],
    enter: Enter,
    finish: Finish,
) -> Means:
    """Start PSI/J, with its files in ``directory``, and look for this host's schedulers.

    ``hear`` takes what is reported of local jobs; ``enter`` and ``finish`` are as `BatchJobs` has
    them, ``scheduler`` and ``in_use`` as `find_batches` has them.
    """
    executors = Executors(directory, hear)
    await executors.open()
    offer, found = await anyio.to_thread.run_sync(find_batches, scheduler, in_use, directory)
    batches = {name: BatchJobs(batch, enter, finish) for name, batch in found.items()}
    return Means(executors, batches, offer)
