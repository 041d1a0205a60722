from .client import PSIJClient
from .errors import JobExpired, JobRefused, SubmitFailed, UnknownJob
from .models import JobAttributes, JobResources, JobSpec, JobState

__all__ = [
    "JobAttributes",
    "JobExpired",
    "JobRefused",
    "JobResources",
    "JobSpec",
    "JobState",
    "PSIJClient",
    "SubmitFailed",
    "UnknownJob",
]
