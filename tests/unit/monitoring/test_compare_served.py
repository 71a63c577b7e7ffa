from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergreen.features.compute.comparison import same_values
from evergreen.monitoring.skew import SKEW, compare, sample_keys, skew_table, summarise

DAY = date(2026, 3, 10)
values = st.none() | st.sampled_from([0.0, 1.0, 1.0 + 2**-52, -3.5])
pairs = st.lists(st.tuples(values, values), min_size=1, max_size=30)


def column(values, kind=None):
    return pa.chunked_array([pa.array(values, kind or pa.float64())])


def flags(served, expected, **how):
    outcome = compare(column(served), column(expected), **how)
    return [kind.tolist() for kind in (outcome.mismatch, outcome.missing, outcome.extra)]


def test_each_kind_of_difference_is_told_apart():
    served, expected = [1.0, 2.0, None, 4.0, None], [1.0, 3.0, 5.0, None, None]
    mismatch, missing, extra = flags(served, expected)
    assert mismatch == [False, True, False, False, False]
    assert missing == [False, False, True, False, False]
    assert extra == [False, False, False, True, False]


def test_stored_values_must_be_equal_and_recomputed_ones_nearly():
    served, expected = [0.1 + 0.2, 0.3001], [0.3, 0.3]
    assert flags(served, expected)[0] == [True, True]
    assert flags(served, expected, same=same_values)[0] == [False, True]


@pytest.mark.parametrize(
    ("kind", "left", "right"),
    [(pa.string(), "a", "b"), (pa.int64(), 1, 2), (pa.bool_(), True, False)],
)
def test_values_of_every_dtype_are_compared(kind, left, right):
    outcome = compare(column([left, left, None], kind), column([left, right, right], kind))
    assert outcome.mismatch.tolist() == [False, True, False]
    assert outcome.missing.tolist() == [False, False, True]


@given(pairs)
def test_the_kinds_and_those_that_agree_make_up_all_keys(rows):
    served, expected = zip(*rows, strict=True)
    outcome = compare(column(served), column(expected))
    kinds = np.array([outcome.mismatch, outcome.missing, outcome.extra])
    assert kinds.sum(axis=0).max() <= 1
    agree = sum(left == right for left, right in rows)
    row = summarise("x", "features", DAY, list(range(len(rows))), outcome)
    assert row.mismatch + row.missing + row.extra + agree == row.keys == len(rows)
    assert len(row.examples) == min(3, row.differing)


@given(pairs)
def test_swapping_the_sides_swaps_missing_and_extra(rows):
    served, expected = zip(*rows, strict=True)
    mismatch, missing, extra = flags(served, expected)
    assert flags(expected, served) == [mismatch, extra, missing]


keys = st.lists(st.text(max_size=3), max_size=60)


@given(keys, st.integers(1, 40), st.integers(1, 7))
def test_the_sample_depends_on_the_keys_alone(names, size, piece):
    def sample(keys):
        pieces = [pa.array(keys[n : n + piece], pa.string()) for n in range(0, len(keys), piece)]
        return sample_keys(pieces, size).to_pylist()

    found = sample(names)
    assert found == sample(names[::-1]) == sample(names + names)
    assert len(set(found)) == len(found) == min(size, len(set(names)))
    # Whoever is sampled stays sampled when others leave.
    if found:
        left = sample([name for name in names if name != found[0]])
        assert left[: len(found) - 1] == found[1:]


def test_numbers_are_sampled_too():
    assert sorted(sample_keys([pa.array([3, 1, 3], pa.int64())], 5).to_pylist()) == [1, 3]


def test_the_table_has_the_declared_schema_and_rows_speak():
    row = summarise("spent", "features", DAY, ["a", "b"], compare(column([1, 2]), column([1, 3])))
    assert skew_table(DAY, [row]).schema == SKEW
    assert row.describe() == (
        "spent of 1 of 2 served rows is not that of the table features (mismatch 1; e.g. b)"
    )
