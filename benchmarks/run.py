"""Measure ORBIT against its baselines in the same run, and write the table of ratios.

Every row interleaves its rounds with those of its baseline and gives medians: ratios hold on a
noisy machine, single figures do not. ``wrk`` makes the load of the request rows.

``run.py NAME ...`` measures the parts of these names only, and writes nothing.
"""

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from bench_jobs import job_row
from bench_notifications import notification_rows
from bench_requests import request_rows
from bench_staging import staging_rows
from bench_starts import crowd_row, import_row, start_row
from bench_tasks import TASKS, open_tasks_site
from bench_transfers import bystander_row, transfer_rows
from sites import HERE, Row, Site, open_site

HEADING = "# Results\n\nWritten by `make bench`; medians of interleaved rounds.\n\n"


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| what | must | measured | holds |", "|---|---|---|---|"]
    lines += [f"| {r.what} | {r.must} | {r.figures} | {'yes' if r.holds else 'NO'} |" for r in rows]
    return "\n".join(lines)


Found = Row | Iterable[Row]

PLAIN: dict[str, Callable[[Site], Found]] = {
    "requests": partial(request_rows, suffix=""),
    "transfers": transfer_rows,
    "bystander": bystander_row,
    "staging": staging_rows,
    "notifications": notification_rows,
    "jobs": job_row,
}
TLS: dict[str, Callable[[Site], Found]] = {"requests-tls": partial(request_rows, suffix=", TLS")}
ALONE: dict[str, Callable[[], Found]] = {
    "crowd": crowd_row,
    "start": start_row,
    "import": import_row,
}
NAMES = [*PLAIN, *TLS, *TASKS, *ALONE]


def rows(names: list[str]) -> Iterator[Row]:
    """Measure one part after the other, those of one site on the same one."""
    for tls, parts in ((False, PLAIN), (True, TLS)):
        wanted = [parts[name] for name in parts if name in names]
        if wanted:
            with open_site(tls=tls) as site:
                for measure in wanted:
                    yield from _each(measure(site))
    tasks = [TASKS[name] for name in TASKS if name in names]
    if tasks:
        with open_tasks_site() as place:
            for measure_tasks in tasks:
                yield measure_tasks(place)
    for name in ALONE:
        if name in names:
            yield from _each(ALONE[name]())


def _each(found: Found) -> Iterable[Row]:
    return [found] if isinstance(found, Row) else found


def main(*names: str) -> None:
    """Measure and print; without names, measure everything and write ``results.md``."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        sys.exit(f"there is no {', '.join(unknown)}: choose among {', '.join(NAMES)}")
    chosen = list(names) or NAMES
    if shutil.which("wrk") is None and {"requests", "requests-tls"} & set(chosen):
        sys.exit("this needs the load generator wrk: apt-get install wrk")
    found = []
    for row in rows(chosen):
        print(f"{row.what}: {row.figures}", flush=True)
        found.append(row)
    text = table(found)
    print(f"\n{text}")
    if not names:
        (HERE / "results.md").write_text(f"{HEADING}{text}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
