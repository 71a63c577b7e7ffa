"""What docs/stock_behaviour.md says of Feast and of us, held against both.

A test that fails on the stock side means that Feast has changed: correct the page, and see whether
our own code for it is still needed.
"""

import pytest
from benchmarks import pains

pytestmark = pytest.mark.faults


def test_a_backfill_of_an_older_day_takes_newer_values_away(home, tmp_path):
    found = pains.backfill_of_an_older_day(tmp_path)
    assert found.stock == {"sqlite": 10, "postgres": 10}
    assert found.ours == {"online": 50}


def test_a_correction_is_dropped_or_does_not_stay(home, tmp_path):
    found = pains.correction_of_the_same_day(tmp_path)
    assert found.stock == {
        "redis": [10, 10, 10],
        "sqlite": [10, 11, 10],
        "postgres": [10, 11, 10],
    }
    assert found.ours == {"online": [10, 11, 11]}


def test_incremental_materialization_never_sees_a_late_row(home, tmp_path):
    found = pains.late_row(tmp_path)
    lost = {"a": 3, "b": None}
    assert found.stock == {"sqlite": lost, "postgres": lost}
    assert found.ours == {"online": {"a": 3, "b": 7}}


def test_a_join_returns_a_value_that_was_not_known_yet(home, tmp_path):
    found = pains.correction_known_later(tmp_path)
    assert found.stock == {
        "dask": [99],
        "dask, cut off on request": [1],
        "duckdb": [99],
        "duckdb, cut off on request": [1],
    }
    assert found.ours == {"as training reads it": [1], "as corrected, on request": [99]}


def test_rows_of_the_entity_frame_vanish(home, tmp_path):
    found = pains.repeated_entity_rows(tmp_path)
    assert found.stock["dask"] == {"a": 1, "nobody": 2, "later": 1}
    assert found.stock["duckdb"] == {"a": 2, "nobody": 2, "later": 2}
    assert found.ours == {"training_set": {"a": 2, "nobody": 2, "later": 2}}
