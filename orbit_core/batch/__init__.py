"""Speak with batch systems: SLURM, PBS Pro, and whatever a site adds.

A system of a site's own is a subclass of `BatchSystem`, or of one of those here, that an entry
point in the group ``orbit.batch_systems`` names. It is asked before those here.
"""

from .commands import Output, run
from .durations import seconds_of
from .errors import (
    AllocationUnknown,
    InvalidJobId,
    JobForbidden,
    OutputTooLarge,
    SchedulerFailed,
    SchedulerUnavailable,
    UnknownBatchJob,
)
from .models import Failure, FailureCause, JobAllocation, JobReport, JobState
from .none import NoBatchSystem
from .pbs import AuroraPbs, PbsPro
from .pbs_records import Record, parse_pbs_json, parse_pbs_text
from .registry import GROUP, batch_system, batch_systems, find_batch_system
from .slurm import Slurm
from .system import BatchSystem

__all__ = [
    "GROUP",
    "AllocationUnknown",
    "AuroraPbs",
    "BatchSystem",
    "Failure",
    "FailureCause",
    "InvalidJobId",
    "JobAllocation",
    "JobForbidden",
    "JobReport",
    "JobState",
    "NoBatchSystem",
    "Output",
    "OutputTooLarge",
    "PbsPro",
    "Record",
    "SchedulerFailed",
    "SchedulerUnavailable",
    "Slurm",
    "UnknownBatchJob",
    "batch_system",
    "batch_systems",
    "find_batch_system",
    "parse_pbs_json",
    "parse_pbs_text",
    "run",
    "seconds_of",
]
