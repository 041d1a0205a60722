import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_xgfabric import Continuous, InvalidReplay
from orbit_xgfabric.readings import HEADER, Reading, from_csv, is_change, to_csv

finite = st.floats(-1000, 1000)
rows = st.builds(
    Reading, dt=st.floats(0, 2e9), windspeed=finite, windavg=finite, winddir=finite
)  # fmt: skip


@given(readings=st.lists(rows, min_size=1, max_size=10))
def test_readings_come_back_from_csv(readings: list[Reading]) -> None:
    found = from_csv(to_csv(readings), "here")

    assert len(found) == len(readings)
    for one, other in zip(found, sorted(readings, key=lambda row: row.dt), strict=True):
        assert math.isclose(one.dt, other.dt, abs_tol=0.001)


def test_the_heading_is_what_training_scripts_read() -> None:
    assert to_csv([Reading(1.5, 2, 3, 4)]) == (
        "dt,windspeed,windavg,winddir\n1.500,2.0000,3.0000,4.0000\n"
    )


@pytest.mark.parametrize(
    "time",
    ["1700000000", "2023-11-14T22:13:20Z", "2023-11-14 22:13:20", "2023-11-14T23:13:20+01:00"],
)
def test_times_may_be_numbers_or_iso(time: str) -> None:
    (found,) = from_csv(f"dt,windspeed,windavg,winddir\r\n{time},1,2,3\r\n\r\n", "here")

    assert found == Reading(1_700_000_000, 1, 2, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: the heading must be dt,windspeed,windavg,winddir"),
        ("root:x:0:0", "line 1: the heading"),
        ("dt,windspeed,windavg,winddir\n", "no row below"),
        ("dt,windspeed,windavg,winddir\n1,2,3,4\n1,2,3\n", "line 3: expected 4 values, got 3"),
        ("dt,windspeed,windavg,winddir\n1,fast,3,4\n", "line 2: windspeed is no number"),
        ("dt,windspeed,windavg,winddir\n1,2,inf,4\n", "line 2: windavg is no number"),
        ("dt,windspeed,windavg,winddir\nnoon,2,3,4\n", "line 2: dt is neither"),
        ('dt,windspeed,windavg,winddir\n1,2,3,"4\n', "line 2: "),
    ],
)
def test_a_fault_is_told_with_its_line(text: str, said: str) -> None:
    with pytest.raises(InvalidReplay) as raised:
        from_csv(text, "old.csv")

    assert said in raised.value.detail
    assert raised.value.detail.startswith("old.csv")


@given(text=st.text() | st.lists(st.text()).map(lambda cells: ",".join([*HEADER, "\n", *cells])))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(InvalidReplay):
        assert from_csv(text, "here")


@pytest.mark.parametrize(
    ("speed", "direction", "changed"),
    [
        (5, 10, False),
        (6.9, 10, False),
        (7, 10, True),
        (5, 339, True),
        (5, 341, False),
        (5, 40, True),
    ],
)
def test_a_change_is_told_by_speed_or_direction(
    speed: float, direction: float, changed: bool
) -> None:
    before, after = Reading(0, 5, 5, 10), Reading(1, speed, speed, direction)

    assert is_change(before, after, Continuous(speed_change=2, direction_change=30)) is changed
