import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_core import _rates
from orbit_core._rates import RateLimit


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def limit(clock, rate, burst=0.0):
    found = RateLimit(rate, burst)
    found._clock = clock
    return found


def test_a_burst_is_given_at_once_and_then_the_wait_is_told(clock):
    turns = limit(clock, rate=2, burst=1)

    assert [turns.take("a") for _ in range(4)] == [0, 0, 0, 0.5]


def test_a_refused_turn_is_not_taken(clock):
    turns = limit(clock, rate=2)

    assert [turns.take("a") for _ in range(4)] == [0, 0.5, 0.5, 0.5]
    clock.now += 0.5
    assert turns.take("a") == 0


def test_a_turn_within_ones_patience_is_taken(clock):
    turns = limit(clock, rate=2)

    assert [turns.take("a", patience=1) for _ in range(5)] == [0, 0.5, 1, 1.5, 1.5]


def test_a_rest_earns_no_more_than_the_burst(clock):
    turns = limit(clock, rate=2, burst=1)
    turns.take("a")
    clock.now += 1000

    assert [turns.take("a") for _ in range(4)] == [0, 0, 0, 0.5]


def test_everybody_has_turns_of_their_own(clock):
    turns = limit(clock, rate=1)

    assert [turns.take(name) for name in ("a", "a", "b")] == [0, 1, 0]


def test_an_infinite_rate_limits_nothing(clock):
    turns = limit(clock, rate=math.inf)

    assert {turns.take("a") for _ in range(1000)} == {0}


def test_only_so_many_are_remembered_and_the_oldest_is_forgotten(clock, monkeypatch):
    monkeypatch.setattr(_rates, "KEYS", 2)
    turns = limit(clock, rate=1)

    assert [turns.take(name) for name in ("a", "b", "a", "c", "b", "a")] == [0, 0, 1, 0, 1, 0]


@given(
    rate=st.floats(0.1, 1000),
    burst=st.floats(0, 10),
    pauses=st.lists(st.floats(0, 1), max_size=100),
)
def test_no_more_turns_are_given_than_rate_and_burst_allow(rate, burst, pauses):
    clock = Clock()
    turns = limit(clock, rate, burst)
    given_out = 0
    for pause in pauses:
        clock.now += pause
        given_out += turns.take("a") == 0

    assert given_out <= (sum(pauses) + burst) * rate + 1 + 1e-6


@given(rate=st.floats(0.1, 1000), burst=st.floats(0, 10), asked=st.integers(1, 50))
def test_who_waits_as_told_is_given_the_turn(rate, burst, asked):
    clock = Clock()
    turns = limit(clock, rate, burst)
    for _ in range(asked):
        if wait := turns.take("a"):
            clock.now += wait + 1e-9
            assert turns.take("a") == 0
