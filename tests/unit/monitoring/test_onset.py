"""How well the day is found on which a change began."""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from evergreen.monitoring.onset import estimate_onset, nights_around
from evergreen.monitoring.reference import build_reference

NIGHT = date(2026, 3, 20)


def history(seed, begin, how, rows=800, weekly=0.3):
    """Nights of the same entities, with a weekday of its own, changed since `begin` nights ago."""
    generator = np.random.default_rng(seed)
    own = generator.normal(size=rows)
    nights = {}
    for n, day in enumerate(nights_around(NIGHT)):
        since = max(0, begin + 1 - n)
        moved = 0.6 * min(1.0, since if how == "step" else since / 10)
        values = own + 0.5 * generator.normal(size=rows) + weekly * (day.weekday() == 5) + moved
        kinds = np.where(values > 1.5, "a", "b")
        nights[day] = pa.table({"x": values, "kind": kinds})
    return nights


def estimate(nights, drifted=(("x", "ks"),)):
    frozen = build_reference(next(iter(nights.values())), ["x", "kind"])
    columns = {column.name: column for column in frozen.columns}
    return estimate_onset([(columns[name], test) for name, test in drifted], nights, NIGHT)


@pytest.mark.parametrize(
    ("how", "begin"), [("step", 3), ("step", 12), ("step", 20), ("ramp", 7), ("ramp", 10)]
)
def test_the_day_is_found_within_a_few(how, begin):
    errors = []
    for seed in range(20):
        found = estimate(history(seed, begin, how), [("x", "ks"), ("kind", "chi2")])
        errors.append((found - (NIGHT - timedelta(days=begin))).days)
    assert abs(np.median(errors)) <= 1
    assert np.mean(np.abs(errors) <= 3) >= 0.9


def test_nights_that_are_not_there_are_passed_over():
    nights = history(1, 10, "step")
    for n in (1, 2, 9, 12, 30, 31, 40):
        del nights[NIGHT - timedelta(days=n)]
    assert abs((estimate(nights) - (NIGHT - timedelta(days=10))).days) <= 2


def test_without_nights_before_it_a_change_began_tonight():
    nights = {NIGHT: history(1, 10, "step")[NIGHT]}
    assert estimate(nights) == NIGHT
