from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergreen.errors import NotReadyError
from evergreen.monitoring.freshness import FRESHNESS, freshness_table, measure_freshness
from evergreen.monitoring.volume import Volume

DAY = date(2026, 3, 10)


def test_lag_counts_days_and_the_limit_is_inclusive():
    newest = {"orders": DAY, "features": DAY - timedelta(1), "predictions": DAY - timedelta(2)}
    rows = measure_freshness(newest, DAY, 1)
    assert [(row.table, row.lag_days, row.stale) for row in rows] == [
        ("features", 1, False),
        ("orders", 0, False),
        ("predictions", 2, True),
    ]


def test_a_table_without_days_is_stale():
    (row,) = measure_freshness({"orders": None}, DAY, 999)
    assert (row.newest_day, row.lag_days, row.stale) == (None, None, True)


def test_a_table_that_begins_later_owes_only_what_comes_after():
    def predictions(nights):
        day = DAY + timedelta(nights)
        (row,) = measure_freshness({"predictions": None}, day, 1, {"predictions": DAY})
        return row

    assert [predictions(n).stale for n in (-1, 0, 1, 2)] == [False, False, False, True]
    assert predictions(2).reason == (
        "predictions holds no day yet, and owes those after 2026-03-10, 2 days before 2026-03-12; "
        "more than the allowed 1"
    )


def test_a_table_owes_what_comes_after_its_newest_day_and_what_it_lacks_before():
    gaps = {"features": [DAY - timedelta(5), DAY + timedelta(1)]}
    (row,) = measure_freshness({"features": DAY - timedelta(2)}, DAY, 9, gaps=gaps)
    assert row.owed == (DAY - timedelta(5), DAY - timedelta(1), DAY)
    assert row.reason == (
        "features ends on 2026-03-08, 2 days before 2026-03-10; within the allowed 9; days before "
        "that are missing: 2026-03-05"
    )
    assert not row.stale


@given(st.integers(0, 9), st.integers(0, 5))
def test_a_missing_day_is_as_late_as_a_table_that_ends_before_it(ago, allowed):
    day = DAY - timedelta(ago)
    (hole,) = measure_freshness({"t": DAY + timedelta(1)}, DAY, allowed, gaps={"t": [day]})
    (end,) = measure_freshness({"t": day - timedelta(1)}, DAY, allowed)
    assert hole.owed == (day,)
    assert hole.stale == end.stale


def test_every_table_has_its_own_limit():
    newest = {"orders": DAY - timedelta(3), "features": DAY - timedelta(3)}
    rows = measure_freshness(newest, DAY, {"orders": 3, "features": 2})
    assert [(row.table, row.allowed_days, row.stale) for row in rows] == [
        ("features", 2, True),
        ("orders", 3, False),
    ]


def test_an_unusual_volume_is_told_and_makes_nothing_stale():
    volumes = {
        "orders": Volume(12, 1000.4, 1e-9, "extreme"),
        "features": Volume(5, 5.0, 1, "usual"),
    }
    features, orders = measure_freshness({"orders": DAY, "features": DAY}, DAY, 1, volumes=volumes)
    assert orders.reason.endswith(
        "; the newest day of orders has 12 rows, where 1,000 are usual (p = 1e-09)"
    )
    assert (orders.rows, orders.volume, orders.stale) == (12, "extreme", False)
    assert "rows" not in features.reason


def test_an_older_night_sees_newer_tables_as_fresh():
    (row,) = measure_freshness({"orders": DAY + timedelta(30)}, DAY, 0)
    assert (row.lag_days, row.stale) == (0, False)


def test_nothing_to_look_at_is_not_ready():
    with pytest.raises(NotReadyError, match="nothing"):
        measure_freshness({}, DAY, 1)


def test_the_table_has_the_declared_schema():
    table = freshness_table(DAY, measure_freshness({"orders": DAY, "x": None}, DAY, 1))
    assert table.schema == FRESHNESS
    assert table["newest_day"].to_pylist() == [DAY, None]


@given(st.integers(-50, 50), st.integers(0, 60), st.integers(0, 10))
def test_older_data_is_never_fresher(lag, older, allowed):
    def stale(days):
        return measure_freshness({"t": DAY - timedelta(days)}, DAY, allowed)[0].stale

    assert stale(lag + older) or not stale(lag)
