from .client import QueueInfoClient
from .models import Allocation, Job, Queue

__all__ = ["Allocation", "Job", "Queue", "QueueInfoClient"]
