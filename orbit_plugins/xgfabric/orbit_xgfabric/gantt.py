"""Draw a run as a picture: an SVG with a lane for each thing that went on at a time.

Each site has its phases in one lane, its pilots' waits below, and its tasks in as many lanes as ran
at the same time. Pointing at a bar shows what it was and how long it took.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from xml.sax.saxutils import escape

import attrs

from .report import Report, Span, SpanKind

WIDTH, MARGIN, LABELS = 1000, 16, 190
"""Pixels of the whole, around it, and of the lanes' names at its left."""

LANE, GAP, HEADING, AXIS = 22, 4, 44, 26
"""Pixels of a lane's height, between lanes, of the heading, and of the axis at the bottom."""

LANES_SHOWN, BARS_SHOWN = 40, 5000
"""Lanes, and bars, of one kind at one site, at most; what finds no room there is counted below."""

COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb",
    "#ddcc77", "#88ccee", "#cc6677", "#44aa99", "#999933",
)  # fmt: skip
"""Paul Tol's bright scheme, which people who are colour-blind can tell apart, and of his muted."""

KINDS: tuple[tuple[SpanKind, str], ...] = (
    ("phase", "phases"),
    ("queue", "queue"),
    ("task", "tasks"),
)

NAME_LENGTH = 28
"""Characters that a lane's name may have."""

_TICKS = 8
_CHARACTER = 6.2
"""Pixels of a character of 11 pixels, about: a bar that is narrower than its text has none."""


@attrs.frozen
class _Lane:
    """Hold spans that do not overlap, under a name."""

    name: str
    spans: list[Span]


@attrs.frozen
class _Scale:
    """Turn times into pixels: ``began`` is at the left end, ``seconds`` later the right one."""

    began: float
    seconds: float

    def x(self, moment: float) -> float:
        share = (moment - self.began) / self.seconds
        return LABELS + min(1.0, max(0.0, share)) * (WIDTH - LABELS - MARGIN)


def to_svg(report: Report) -> str:
    """Return an SVG document."""
    lanes = list(_lanes(report.spans))
    last = max([report.ended, *(span.ended for span in report.spans)])
    scale = _Scale(report.began, max(last - report.began, 1e-3))
    bottom = HEADING + len(lanes) * (LANE + GAP)
    colours = _colours(report.spans)
    height = bottom + AXIS + 2 * MARGIN
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="11">',
        f"<title>{_text(_headline(report))}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{MARGIN}" y="20" font-size="14">{_text(_headline(report))}</text>',
        *_legend(colours),
        *_axis(scale, bottom),
        *(line for number, lane in enumerate(lanes)
          for line in _drawn(lane, HEADING + number * (LANE + GAP), scale, colours)),
        "</svg>",
        "",
    ])  # fmt: skip


def _headline(report: Report) -> str:
    queue = f", {report.queue_seconds:.1f} s in queues" if report.queues else ""
    return (
        f"{report.workflow} {report.run_id}: {report.status}, "
        f"{report.end_to_end_seconds:.1f} s from end to end{queue}"
    )


def _colours(spans: Iterable[Span]) -> dict[str, str]:
    phases = dict.fromkeys(span.phase for span in spans)
    return {phase: COLOURS[number % len(COLOURS)] for number, phase in enumerate(phases)}


def _lanes(spans: Sequence[Span]) -> Iterator[_Lane]:
    for site in dict.fromkeys(span.site for span in spans):
        for kind, heading in KINDS:
            here = [span for span in spans if (span.site, span.kind) == (site, kind)]
            lanes = _packed(here[:BARS_SHOWN])
            for number, lane in enumerate(lanes):
                yield _Lane("" if number else f"{site} {heading}", lane)
            if hidden := len(here) - sum(map(len, lanes)):
                yield _Lane(f"{hidden} more {heading}", [])


def _packed(spans: Iterable[Span]) -> list[list[Span]]:
    """Put each span, in the order of their beginnings, into the first lane that is free then."""
    lanes: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: span.began):
        free = next((lane for lane in lanes if lane[-1].ended <= span.began), None)
        if free is not None:
            free.append(span)
        elif len(lanes) < LANES_SHOWN:
            lanes.append([span])
    return lanes


def _legend(colours: dict[str, str]) -> Iterator[str]:
    x = float(LABELS)
    for phase, colour in colours.items():
        yield f'<rect x="{x:.1f}" y="28" width="10" height="10" fill="{colour}"/>'
        yield f'<text x="{x + 14:.1f}" y="37">{_text(phase)}</text>'
        x += 30 + _CHARACTER * len(phase)


def _axis(scale: _Scale, bottom: int) -> Iterator[str]:
    step = _step(scale.seconds / _TICKS)
    for number in range(int(scale.seconds / step) + 1):
        x = scale.x(scale.began + number * step)
        yield f'<path d="M{x:.1f} {HEADING}V{bottom + 4}" stroke="#ddd"/>'
        label = f"{number * step:g} s"
        yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" fill="#555">{label}</text>'


def _step(least: float) -> float:
    """Return 1, 2 or 5 times a power of ten that is no less than ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def _drawn(lane: _Lane, y: int, scale: _Scale, colours: dict[str, str]) -> Iterator[str]:
    name = lane.name if len(lane.name) <= NAME_LENGTH else f"{lane.name[: NAME_LENGTH - 1]}…"
    yield f'<text x="{MARGIN}" y="{y + 15}">{_text(name)}</text>'
    for span in lane.spans:
        left, right = scale.x(span.began), scale.x(span.ended)
        width = max(right - left, 1.0)
        words = span.label or span.phase
        looks = f'fill="{colours[span.phase]}"'
        looks += (
            ' fill-opacity="0.35" stroke="#555" stroke-dasharray="3 2"'
            if span.kind == "queue"
            else ' fill-opacity="0.8"'
        )
        told = f"{span.phase} at {span.site}{f': {span.label}' if span.label else ''}"
        yield f"<g><title>{_text(told)}, {span.seconds:.2f} s</title>"
        yield f'<rect x="{left:.1f}" y="{y}" width="{width:.1f}" height="{LANE}" rx="2" {looks}/>'
        if width > _CHARACTER * len(words) + 6:
            yield f'<text x="{left + 4:.1f}" y="{y + 15}">{_text(words)}</text>'
        yield "</g>"


def _text(words: str) -> str:
    """Return words as XML may have them: without control characters, and escaped."""
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words))
