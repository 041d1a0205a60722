"""Show a batch system's queues, jobs and allocations through ORBIT.

This is what a user imports: the client, and the values that the answers are made of.
"""

from .client import QueueInfoClient
from .models import Allocation, Job, Queue

__all__ = ["Allocation", "Job", "Queue", "QueueInfoClient"]
