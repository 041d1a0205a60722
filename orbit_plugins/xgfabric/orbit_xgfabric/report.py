"""Report where the time of a run went, as JSON data and as CSV."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import attrs

SpanKind = Literal["phase", "queue", "task"]

CSV_HEADER = ("run_id", "kind", "phase", "site", "label", "began", "ended", "seconds")


@attrs.frozen
class Span:
    """Say that a run spent a time on something; times are seconds since the epoch.

    The spans of kind ``phase`` follow each other and make up the run. What goes on meanwhile is
    told beside: ``queue`` is a pilot's wait for its nodes, ``task`` a simulation, a training or an
    evaluation. ``site`` is the endpoint where it was, ``label`` says which one it was.
    """

    phase: str
    site: str
    began: float
    ended: float
    kind: SpanKind = "phase"
    label: str = ""

    @property
    def seconds(self) -> float:
        """Return how long it took; a clock that was set back counts as no time."""
        return max(0.0, self.ended - self.began)


@attrs.frozen
class PhaseTime:
    """Hold the seconds of one phase at one site, and how many tasks ended in it there.

    ``task_seconds`` is the sum over those tasks, which may run at the same time.
    """

    phase: str
    site: str
    seconds: float
    tasks: int = 0
    task_seconds: float = 0.0


@attrs.frozen
class QueueTime:
    """Hold the seconds that a site's pilots waited for their nodes, and how many there were."""

    site: str
    seconds: float
    pilots: int


@attrs.frozen(kw_only=True)
class Report:
    """Say where the time of a run went; ``began`` and ``ended`` are seconds since the epoch.

    ``end_to_end_seconds`` is the wall time from the start to the end, or until now; of it
    ``phase_seconds`` is in phases, and ``unaccounted_seconds`` is not. ``skipped`` tells why
    clusters that are configured were not used.
    """

    run_id: str
    workflow: str
    status: str
    began: float
    ended: float
    end_to_end_seconds: float
    phase_seconds: float
    unaccounted_seconds: float
    queue_seconds: float
    phases: list[PhaseTime]
    queues: list[QueueTime]
    spans: list[Span]
    skipped: dict[str, str] = attrs.field(factory=dict)


def report_on(
    spans: Iterable[Span], *, run_id: str, workflow: str, status: str, began: float, ended: float
) -> Report:
    """Return the report on a run that ``began`` and ``ended`` then, or goes on until then."""
    ordered = sorted(spans, key=lambda span: (span.began, span.ended))
    whole = max(0.0, ended - began)
    accounted = sum(span.seconds for span in ordered if span.kind == "phase")
    queues = list(_queues(ordered))
    return Report(
        run_id=run_id,
        workflow=workflow,
        status=status,
        began=began,
        ended=ended,
        end_to_end_seconds=_rounded(whole),
        phase_seconds=_rounded(accounted),
        unaccounted_seconds=_rounded(whole - accounted),
        queue_seconds=_rounded(sum(queue.seconds for queue in queues)),
        phases=list(_phases(ordered)),
        queues=queues,
        spans=ordered,
    )


def _rounded(seconds: float) -> float:
    """Return seconds to the microsecond, which a clock can tell."""
    return round(float(seconds), 6)


def _phases(spans: Sequence[Span]) -> Iterator[PhaseTime]:
    """Sum up by phase and site, in the order in which they began."""
    places = dict.fromkeys((span.phase, span.site) for span in spans if span.kind != "queue")
    for phase, site in places:
        here = [span for span in spans if (span.phase, span.site) == (phase, site)]
        tasks = [span.seconds for span in here if span.kind == "task"]
        seconds = sum(span.seconds for span in here if span.kind == "phase")
        yield PhaseTime(phase, site, _rounded(seconds), len(tasks), _rounded(sum(tasks)))


def _queues(spans: Sequence[Span]) -> Iterator[QueueTime]:
    waits = [span for span in spans if span.kind == "queue"]
    for site in dict.fromkeys(span.site for span in waits):
        here = [span.seconds for span in waits if span.site == site]
        yield QueueTime(site, _rounded(sum(here)), len(here))


def to_csv(reports: Iterable[Report]) -> str:
    """Return a line for each span of some reports, below a heading."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(CSV_HEADER)
    for report in reports:
        for span in report.spans:
            where = (report.run_id, span.kind, span.phase, span.site, span.label)
            rows.writerow([*where, *(f"{x:.3f}" for x in (span.began, span.ended, span.seconds))])
    return text.getvalue()
