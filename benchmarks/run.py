"""Measure ORBIT against its baselines in the same run, and write the table of ratios.

Every row interleaves its rounds with those of its baseline and gives medians: ratios hold on a
noisy machine, single figures do not. ``wrk`` makes the load of the request rows.
"""

import shutil
import sys
from collections.abc import Iterator

from bench_jobs import job_row
from bench_notifications import notification_rows
from bench_requests import request_rows
from bench_staging import staging_rows
from bench_starts import crowd_row, import_row, start_row
from bench_tasks import task_rows
from bench_transfers import bystander_row, transfer_rows
from sites import HERE, Row, open_site

HEADING = "# Results\n\nWritten by `make bench`; medians of interleaved rounds.\n\n"


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| what | must | measured | holds |", "|---|---|---|---|"]
    lines += [f"| {r.what} | {r.must} | {r.figures} | {'yes' if r.holds else 'NO'} |" for r in rows]
    return "\n".join(lines)


def rows() -> Iterator[Row]:
    """Measure one row after the other."""
    with open_site(tls=False) as site:
        yield from request_rows(site, "")
        yield from transfer_rows(site)
        yield bystander_row(site)
        yield from staging_rows(site)
        yield from notification_rows(site)
        yield job_row(site)
    with open_site(tls=True) as site:
        yield from request_rows(site, ", TLS")
    yield from task_rows()
    yield crowd_row()
    yield start_row()
    yield import_row()


def main() -> None:
    """Measure, print and write ``results.md``."""
    if shutil.which("wrk") is None:
        sys.exit("this needs the load generator wrk: apt-get install wrk")
    found = []
    for row in rows():
        print(f"{row.what}: {row.figures}", flush=True)
        found.append(row)
    text = table(found)
    print(f"\n{text}")
    (HERE / "results.md").write_text(f"{HEADING}{text}\n")


if __name__ == "__main__":
    main()
