from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest
from quality_shop import orders

from evergreen.quality.row_counts import unusual_row_counts, usual_row_counts

FIRST = date(2024, 1, 1)
WEEK = np.array([1.1, 1.1, 1.0, 1.0, 1.3, 0.9, 0.6])


def history(level: float, dispersion: float, days: int, seed: int) -> dict[date, int]:
    """Negative binomial counts with a weekly season."""
    random = np.random.default_rng(seed)
    means = level * WEEK[np.arange(days) % 7]
    if dispersion:
        means = means * random.gamma(1 / dispersion, dispersion, days)
    return {FIRST + timedelta(days=n): int(c) for n, c in enumerate(random.poisson(means))}


def spoil(counts: dict[date, int], day: date, factor: float) -> dict[date, int]:
    return counts | {day: round(counts[day] * factor)}


@pytest.mark.parametrize("dispersion", [0, 0.02, 0.1, 0.3])
@pytest.mark.parametrize("level", [5, 50, 5_000])
def test_days_as_they_come_pass(level: float, dispersion: float) -> None:
    found = [
        len(unusual_row_counts(orders(), history(level, dispersion, 365, seed)))
        for seed in range(8)
    ]
    assert sum(found) <= 0.004 * 8 * 365, found


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_half_a_file_and_a_file_twice_are_found_where_counts_are_steady(factor: float) -> None:
    counts = history(500, 0.002, 200, 1)
    days = list(counts)[60:]
    found = [day in unusual_row_counts(orders(), spoil(counts, day, factor)) for day in days]
    assert sum(found) >= 0.9 * len(found)


def test_a_small_shop_is_not_asked_for_more_than_counts_can_say() -> None:
    counts = history(5, 0, 120, 2)
    day = list(counts)[100]
    usual = usual_row_counts(orders(), counts, [day])[day]
    assert usual.least < 1
    assert usual.most > 10


def test_a_weekday_is_compared_with_its_like() -> None:
    # Sundays sell a tenth; a Monday that does is unusual.
    days = [FIRST + timedelta(days=n) for n in range(100)]
    counts = {day: 30 if day.weekday() == 6 else 300 for day in days}
    assert unusual_row_counts(orders(), counts) == {}
    monday = days[91]
    assert monday.weekday() == 0
    assert list(unusual_row_counts(orders(), counts | {monday: 30})) == [monday]


def test_a_shop_that_has_changed_is_soon_judged_by_what_it_has_become() -> None:
    counts = history(250, 0, 200, 3)
    days = list(counts)
    for day in days[150:]:
        counts[day] = round(counts[day] * 0.35)
    assert list(unusual_row_counts(orders(), counts)) == days[150:154]


def test_a_verdict_needs_all_days_it_stands_on() -> None:
    counts = history(50, 0, 100, 4)
    day = list(counts)[80]
    counts[day] = 1
    assert list(unusual_row_counts(orders(), counts)) == [day]
    inside, before = day - timedelta(days=56), day - timedelta(days=57)
    assert unusual_row_counts(orders(), {d: n for d, n in counts.items() if d != inside}) == {}
    assert list(unusual_row_counts(orders(), {d: n for d, n in counts.items() if d != before}))
    later = {d: n for d, n in counts.items() if d <= day}
    assert list(unusual_row_counts(orders(), later)) == [day]


def test_closed_days_are_neither_judged_nor_a_norm() -> None:
    days = [FIRST + timedelta(days=n) for n in range(70)]
    counts = {day: 0 if day.weekday() == 5 else 200 for day in days}
    assert unusual_row_counts(orders(), counts) == {}
    assert unusual_row_counts(orders(), counts | {days[60]: 0}) == {}
