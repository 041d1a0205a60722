import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orbit_xgfabric import NoUsableWind
from orbit_xgfabric.parameters import ACCURACY, CANDIDATES, LEAST_SPEED, MOST_SPEED, Wind, choose
from orbit_xgfabric.readings import Reading

readings = st.lists(
    st.builds(
        Reading,
        dt=st.integers(0, 1000).map(float),
        windspeed=st.floats(-5, 40),
        windavg=st.just(1.0),
        winddir=st.floats(-20, 400),
    ),
    max_size=30,
)


def wind(speed: float, direction: float, dt: float = 0.0) -> Reading:
    return Reading(dt, speed, speed, direction)


@given(readings=readings, count=st.integers(1, 40))
def test_there_are_as_many_winds_as_asked_for_within_what_was_measured(
    readings: list[Reading], count: int
) -> None:
    usable = [
        one
        for one in readings
        if LEAST_SPEED < one.windspeed < MOST_SPEED and 0 <= one.winddir <= 360
    ]
    if not usable:
        with pytest.raises(NoUsableWind):
            choose(readings, count)
        return

    found = choose(readings, count)

    assert len(found) == count
    assert found == choose(readings, count)
    speeds = [one.windspeed for one in usable]
    for one in found:
        assert min(speeds) - ACCURACY - 1e-4 <= one.speed <= max(speeds) + ACCURACY + 1e-4
        assert 0 <= one.direction < 360


def test_the_newest_wind_is_simulated_first() -> None:
    found = choose([wind(3, 10, 0), wind(7, 20, 2), wind(5, 30, 1)], 2)

    assert found[0] == Wind(7, 20)


def test_measured_winds_are_used_as_long_as_there_are_some() -> None:
    found = choose([wind(3, 10), wind(7, 20), wind(5, 30), wind(5, 30)], 5)

    assert set(found[:3]) == {Wind(3, 10), Wind(7, 20), Wind(5, 30)}


def test_directions_count_and_not_speeds_alone() -> None:
    found = choose([wind(5, degrees) for degrees in range(0, 360, 10)], 4)

    assert {one.direction for one in found} == {0, 180, 90, 270}


def test_gaps_are_filled_evenly_turning_the_shorter_way() -> None:
    found = choose([wind(4, 350, 1), wind(8, 10, 0)], 5)

    assert found[2:] == [Wind(5, 355), Wind(6, 0), Wind(7, 5)]


def test_the_widest_gaps_are_filled_first() -> None:
    found = choose([wind(1, 0), wind(2, 0), wind(6, 0)], 6)

    assert sorted(one.speed for one in found) == [1, 2, 3, 4, 5, 6]


def test_steady_wind_is_varied_by_what_cannot_be_told_apart() -> None:
    found = choose([wind(5, 90)] * 10, 16)

    assert len(set(found)) == 16
    assert {one.direction for one in found} == {90}
    assert min(one.speed for one in found) == pytest.approx(5 - ACCURACY)
    assert max(one.speed for one in found) == pytest.approx(5 + ACCURACY)


def test_a_wind_at_the_edge_is_varied_to_where_it_can_be_simulated() -> None:
    speeds = [one.speed for one in choose([wind(0.6, 0)], 5)]

    assert min(speeds) == LEAST_SPEED


def test_north_has_one_name() -> None:
    assert choose([wind(5, 360), wind(6, 359.999)], 2) == [Wind(5, 0), Wind(6, 0)]


@pytest.mark.parametrize("count", [10, CANDIDATES + 100])
def test_of_very_many_winds_some_are_chosen(count: int) -> None:
    many = [wind(1 + number / 100, number % 360, -number) for number in range(2000)]

    found = choose(many, count)

    assert len(set(found)) == count
    assert found[0] == Wind(1, 0)


def test_the_error_says_what_to_look_at() -> None:
    with pytest.raises(NoUsableWind, match=r"none of 2 readings .* field map"):
        choose([wind(0.1, 5), wind(math.nan, 5)], 3)
