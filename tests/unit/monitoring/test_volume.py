from datetime import date, timedelta

import numpy as np
import pytest

from evergreen.monitoring.volume import measure_volume

START = date(2025, 1, 6)


def series(seed, days, *, level=1000.0, growth=1.5, season=0.3, week=(1, 1, 1, 1, 1.3, 0.6, 0.2)):
    chance, at = np.random.default_rng(seed), np.arange(days) / 365
    mean = level * growth**at * (1 + season * np.sin(2 * np.pi * at))
    mean = mean * np.array(week)[np.arange(days) % 7] * chance.gamma(50, 1 / 50, days)
    return {START + timedelta(n): int(rows) for n, rows in enumerate(chance.poisson(mean))}


def last(rows):
    return max(rows)


def test_growth_season_and_weekdays_are_usual():
    rows = series(1, 3 * 365)
    days = list(rows)[2 * 365 :]
    found = [measure_volume(rows, day).verdict for day in days]
    assert found.count("extreme") <= 1
    assert found.count("unusual") <= 4


@pytest.mark.parametrize("factor", [0.0, 0.1, 5.0])
def test_a_day_that_is_nothing_like_the_others_is_extreme(factor):
    rows = series(2, 400)
    for day in list(rows)[-7:]:
        changed = rows | {day: round(rows[day] * factor)}
        assert measure_volume(changed, day).verdict == "extreme", day


def test_what_is_usual_is_told():
    rows = dict.fromkeys(series(0, 300), 100)
    volume = measure_volume(rows, last(rows))
    assert (volume.rows, volume.verdict) == (100, "usual")
    assert volume.usual_rows == pytest.approx(100)
    assert volume.p_value == pytest.approx(1)


def test_a_holiday_in_the_past_does_not_widen_what_is_usual():
    rows = series(3, 400)
    holiday = last(rows) - timedelta(weeks=12)
    broken = rows | {last(rows): rows[last(rows)] // 10}
    assert measure_volume(broken | {holiday: 0}, last(rows)).verdict == "extreme"


def test_a_change_does_not_hide_itself():
    rows = series(4, 400)
    halved = {
        day: n // 3 if day > last(rows) - timedelta(days=10) else n for day, n in rows.items()
    }
    assert measure_volume(halved, last(rows)).verdict == "extreme"


def test_too_short_a_past_is_not_judged():
    rows = dict.fromkeys(series(0, 60), 5)
    volume = measure_volume(rows, last(rows))
    assert (volume.usual_rows, volume.p_value, volume.verdict) == (pytest.approx(5), None, None)
    assert measure_volume({START: 3}, START).usual_rows is None
