"""Whether nights that are like those before them are called unusual, and others are not."""

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergreen.monitoring.expected import WEEKS, expect, measure_departure, weeks_before
from evergreen.monitoring.shapes import greatest_difference

NIGHTS = 1 + len(weeks_before(date(2026, 3, 20)))


def walk(seed, nights=NIGHTS, step=0.02, noise=0.01):
    """Shares of two places that wander, the newest first."""
    generator = np.random.default_rng(seed)
    path = 0.5 + np.cumsum(generator.normal(0, step, nights)) + generator.normal(0, noise, nights)
    return [np.array([share]) for share in path[::-1]]


def measure(shapes, least=1e-3):
    return measure_departure(shapes, greatest_difference, least)


def test_the_nights_are_the_same_weekday_of_the_weeks_before():
    night = date(2026, 3, 20)
    before = weeks_before(night)
    assert before[:2] == [date(2026, 3, 13), date(2026, 3, 6)]
    assert {day.weekday() for day in before} == {night.weekday()}
    assert len(before) == 33


def test_expected_is_the_mean_of_the_nights_that_are_there():
    shapes = [np.array([x]) for x in (9.0, 1.0, 2.0, 3.0, 4.0, 50.0)]
    assert expect(shapes) == 2.5
    shapes[2] = None
    assert expect(shapes) == pytest.approx((1 + 3 + 4) / 3)
    shapes[1] = shapes[3] = None
    # One night is not enough: it would be held against the chance of that one.
    assert expect(shapes) is None
    assert measure(shapes).value is None


def test_too_few_nights_before_say_nothing_of_what_is_usual():
    shapes = walk(1, nights=1 + 2 * WEEKS + 4)
    found = measure(shapes)
    assert found.value is not None
    assert (found.usual, found.p_value) == (None, None)
    found = measure(walk(1, nights=1 + 2 * WEEKS + 9))
    assert found.p_value is not None


@pytest.mark.parametrize("step", [0.0, 0.005, 0.02])
def test_p_values_of_nights_like_others_are_not_too_small(step):
    p_values = np.array([measure(walk(seed, step=step)).p_value for seed in range(600)])
    for level in (0.01, 0.05, 0.2):
        assert np.mean(p_values < level) <= level + 3 * np.sqrt(level * (1 - level) / 600)


def test_a_jump_is_found_and_hides_itself_for_no_month():
    shapes = walk(3)
    for weeks in range(1, WEEKS):
        # The last weeks are as they are since the jump: it is still seen from the one before.
        jumped = [shape + 0.5 * (n < weeks) for n, shape in enumerate(shapes)]
        found = measure(jumped)
        assert found.p_value < 0.01, weeks
        assert found.usual == pytest.approx(measure(shapes).usual)


def test_nights_that_were_all_equal_do_not_make_the_next_a_miracle():
    calm = [np.array([0.0])] * NIGHTS
    assert measure(calm).p_value == pytest.approx(0.5)
    assert measure([np.array([0.0015]), *calm[1:]]).p_value > 0.01
    assert measure([np.array([0.1]), *calm[1:]]).p_value < 1e-6


@given(st.integers(0, 10**6), st.lists(st.booleans(), min_size=NIGHTS, max_size=NIGHTS))
def test_a_night_is_judged_by_those_that_are_there(seed, there):
    shapes = [
        shape if is_there else None for shape, is_there in zip(walk(seed), there, strict=True)
    ]
    found = measure(shapes)
    if shapes[0] is None or sum(there[1 : 1 + WEEKS]) < 2:
        assert found.value is None
    else:
        assert found.value == pytest.approx(abs(shapes[0] - expect(shapes))[0])
    # What was forgotten lies before the last night that anything is held against.
    assert measure([*shapes, np.array([100.0])]) == found
