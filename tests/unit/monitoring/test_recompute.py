from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from evergreen.monitoring.recompute import Started, choose_days

FIRST, NIGHT = date(2026, 1, 1), date(2026, 1, 20)
NOW = Started(NIGHT, "now")
days = st.integers(0, 9).map(lambda n: FIRST + timedelta(days=n))
records = st.builds(
    Started, st.integers(18, 21).map(lambda n: date(2026, 1, n)), st.sampled_from(["now", "other"])
)


@given(st.sets(days), st.dictionaries(days, records), st.integers(1, 5))
def test_no_more_than_allowed_and_none_that_is_under_way(ready, started, limit):
    chosen = choose_days(ready, started, NOW, limit)
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= ready
    free = {d for d in ready if d not in started or started[d].night < NIGHT or d in mine(started)}
    assert set(chosen) <= free
    assert len(chosen) == min(limit, len(free))


@given(st.sets(days), st.dictionaries(days, records), st.integers(1, 5))
def test_a_run_that_is_tried_again_starts_the_same(ready, started, limit):
    chosen = choose_days(ready, {d: s for d, s in started.items() if s != NOW}, NOW, limit)
    again = {d: s for d, s in started.items() if s != NOW} | dict.fromkeys(chosen, NOW)
    assert choose_days(ready, again, NOW, limit) == chosen


def mine(started):
    return {day for day, by in started.items() if by.run == "now"}


def test_a_day_that_fails_every_night_does_not_keep_the_others_waiting():
    ready = {FIRST + timedelta(days=n) for n in range(3)}
    started: dict[date, Started] = {}
    seen = []
    for n in range(6):
        now = Started(NIGHT + timedelta(days=n), str(n))
        (day,) = choose_days(ready, started, now, 1)
        started[day] = now
        seen.append((day - FIRST).days)
    assert seen == [0, 1, 2, 0, 1, 2]
