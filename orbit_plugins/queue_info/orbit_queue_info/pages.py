"""Cut a list of jobs into pages."""

from bisect import bisect_right

from .info import job_order
from .models import Job


def page_of(jobs: list[Job], limit: int, after: str | None) -> tuple[list[Job], str | None]:
    """Return at most ``limit`` (0: all) jobs that follow the id ``after``, which need not be there.

    Also returned is the ``after`` of the next page, None on the last one. ``jobs`` are in the
    order of `job_order`.
    """
    begin = bisect_right(jobs, job_order(Job(after)), key=job_order) if after else 0
    end = begin + limit if limit else len(jobs)
    page = jobs[begin:end]
    return page, page[-1].job_id if page and end < len(jobs) else None
