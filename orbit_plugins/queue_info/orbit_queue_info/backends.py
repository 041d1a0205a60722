"""Choose what collects, by the family of the batch system."""

from orbit_core.batch import BatchSystem, NoBatchSystem, Slurm

from .cache import QUERY_INTERVAL, Background
from .info import QueueInfo, QueueInfoNone
from .pbs import QueueInfoPBSPro
from .slurm import QueueInfoSlurm

_BACKENDS: dict[str, type[QueueInfo]] = {
    "slurm": QueueInfoSlurm,
    "pbs": QueueInfoPBSPro,
    "none": QueueInfoNone,
}


def make_queue_info(
    batch: BatchSystem | None = None,
    conf_path: str | None = None,
    *,
    background: Background,
    ttl: float = QUERY_INTERVAL,
) -> QueueInfo:
    """Return the `QueueInfo` for a batch system; ``conf_path`` names another slurm.conf."""
    system = batch or NoBatchSystem()
    if conf_path and isinstance(system, Slurm):
        system = type(system)(conf_path)
    return _BACKENDS[system.family](system, background, ttl)
