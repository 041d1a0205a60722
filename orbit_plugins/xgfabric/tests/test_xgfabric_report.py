import csv
import io
from collections.abc import Callable
from xml.etree import ElementTree

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_xgfabric.gantt import BARS_SHOWN, LABELS, LANES_SHOWN, MARGIN, WIDTH, to_svg
from orbit_xgfabric.report import CSV_HEADER, PhaseTime, QueueTime, Report, Span, report_on, to_csv

from orbit_core.values import as_model, to_data

SVG = "{http://www.w3.org/2000/svg}"

SPANS = [
    Span("simulations", "login", 10, 40),
    Span("simulations", "login", 10, 24, "task", "sim_0"),
    Span("simulations", "login", 10, 26, "task", "sim_1"),
    Span("staging", "login", 5, 10),
    Span("pilot_submit", "anvil", 4, 34, "queue", "anvil.pilot"),
    Span("training", "anvil", 40, 59),
]
times = st.floats(0, 100)
words = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40)
spans = st.lists(
    st.builds(
        Span,
        phase=st.sampled_from(["staging", "training"]) | words,
        site=words,
        began=times,
        ended=times,
        kind=st.sampled_from(["phase", "queue", "task"]),
        label=words,
    ),
    max_size=8,
)


def report(found: list[Span], began: float = 5, ended: float = 60) -> Report:
    return report_on(
        found, run_id="r1", workflow="mine", status="completed", began=began, ended=ended
    )


def test_the_seconds_of_each_phase_and_site_are_summed_up() -> None:
    found = report(SPANS)

    assert found.phases == [
        PhaseTime("staging", "login", 5),
        PhaseTime("simulations", "login", 30, 2, 30),
        PhaseTime("training", "anvil", 19),
    ]
    assert found.queues == [QueueTime("anvil", 30, 1)]
    assert found.queue_seconds == 30
    assert (found.end_to_end_seconds, found.phase_seconds, found.unaccounted_seconds) == (55, 54, 1)


def test_a_clock_that_was_set_back_takes_no_time() -> None:
    found = report([Span("staging", "a", 10, 5)], began=10, ended=5)

    assert (found.end_to_end_seconds, found.phase_seconds) == (0, 0)


@given(found=spans)
def test_a_report_comes_back_from_its_data(found: list[Span]) -> None:
    made = report(found)

    assert as_model(to_data(made), Report) == made
    assert made.phase_seconds == pytest.approx(sum(phase.seconds for phase in made.phases))


@given(found=spans)
def test_csv_has_a_line_for_each_span(found: list[Span]) -> None:
    made = report(found)

    heading, *rows = csv.reader(io.StringIO(to_csv([made, made]), newline=""))

    assert tuple(heading) == CSV_HEADER
    assert [row[1:5] for row in rows] == 2 * [
        [span.kind, span.phase, span.site, span.label] for span in made.spans
    ]


def test_csv_has_what_papers_need() -> None:
    line = to_csv([report(SPANS[4:5])]).splitlines()[1]

    assert line == "r1,queue,pilot_submit,anvil,anvil.pilot,4.000,34.000,30.000"


@given(found=spans)
def test_any_run_can_be_drawn(found: list[Span]) -> None:
    root = ElementTree.fromstring(to_svg(report(found)))

    assert root.tag == f"{SVG}svg"
    for bar in root.findall(f".//{SVG}g/{SVG}rect"):
        left, width = float(bar.attrib["x"]), float(bar.attrib["width"])
        assert left >= LABELS
        assert left + width <= WIDTH - MARGIN + 1.1


def texts(root: ElementTree.Element) -> list[str]:
    return [found.text or "" for found in root.iter(f"{SVG}text")]


def test_a_picture_names_sites_phases_and_tasks() -> None:
    root = ElementTree.fromstring(to_svg(report(SPANS)))

    said = texts(root)
    assert said[0] == "mine r1: completed, 55.0 s from end to end, 30.0 s in queues"
    for expected in ("login phases", "login tasks", "anvil queue", "training", "sim_0", "10 s"):
        assert expected in said
    told = [found.text for found in root.findall(f".//{SVG}g/{SVG}title")]
    assert "pilot_submit at anvil: anvil.pilot, 30.00 s" in told


def test_names_cannot_become_markup() -> None:
    evil = '"/><script>alert(1)</script>\0'
    made = report([Span(evil, evil, 5, 60, "task", evil)])

    root = ElementTree.fromstring(to_svg(attrs.evolve(made, workflow=evil)))

    assert not list(root.iter(f"{SVG}script"))
    assert any("<script>" in said for said in texts(root))


def test_tasks_that_run_at_the_same_time_have_lanes_of_their_own() -> None:
    root = ElementTree.fromstring(to_svg(report(SPANS[1:3])))

    bars = root.findall(f".//{SVG}g/{SVG}rect")
    assert len({bar.attrib["y"] for bar in bars}) == 2


def at_once(number: int) -> Span:
    return Span("simulations", "a", 5, 6, "task", str(number))


def one_by_one(number: int) -> Span:
    return Span("simulations", "a", 5 + number, 6 + number, "task", str(number))


@pytest.mark.parametrize(("made", "shown"), [(at_once, LANES_SHOWN), (one_by_one, BARS_SHOWN)])
def test_what_finds_no_room_is_counted(made: Callable[[int], Span], shown: int) -> None:
    root = ElementTree.fromstring(to_svg(report([made(number) for number in range(shown + 7)])))

    assert len(root.findall(f".//{SVG}g/{SVG}rect")) == shown
    assert "7 more tasks" in texts(root)
