from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergreen.contract import Monitoring
from evergreen.errors import NotReadyError, ValidationError
from evergreen.monitoring.performance import (
    PERFORMANCE,
    judge_performance,
    performance_table,
    realised_performance,
)


def tables(scores, labels, **more):
    keys = [f"c{n}" for n in range(len(scores))]
    predictions = pa.table(
        {"customer": keys, "score": scores, "model_version": [3] * len(keys), **more}
    )
    return predictions, pa.table({"customer": keys[::-1], "label": labels[::-1]})


def measure(scores, labels, **more):
    return realised_performance(*tables(scores, labels, **more), "customer")


def large(auc_shift, rows=2_000, seed=1):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, rows)
    scores = 1 / (1 + np.exp(-generator.normal(auc_shift * labels, 1.0)))
    return measure(scores.tolist(), labels.tolist())


def test_by_hand():
    row = measure([0.9, 0.6, 0.4, 0.2], [1, 0, 1, 0])[0]
    assert (row.model_version, row.slice, row.rows, row.unlabelled) == (3, "all", 4, 0)
    assert row.auc == 0.75
    assert row.brier == pytest.approx((0.01 + 0.36 + 0.36 + 0.04) / 4)
    assert row.logloss == pytest.approx(-np.log([0.9, 0.4, 0.4, 0.8]).mean())
    assert (row.base_rate, row.mean_score) == (0.5, pytest.approx(0.525))


def test_known_ranks():
    assert measure([0.1, 0.9], [0, 1])[0].auc == 1.0
    assert measure([0.9, 0.1], [False, True])[0].auc == 0.0
    assert measure([0.5] * 4, [0, 1, 0, 1])[0].auc == 0.5


def test_bands_are_slices_and_add_up():
    rows = measure([0.9, 0.8, 0.3, 0.1], [1, 0, 0, 0], band=["high", "high", "low", "low"])
    assert [row.slice for row in rows] == ["all", "band=high", "band=low"]
    assert [row.rows for row in rows] == [4, 2, 2]
    low = rows[2]
    # One class only: no AUC, everything else stands.
    assert (low.auc, low.base_rate, low.minority_rows) == (None, 0.0, 0)
    assert low.logloss == pytest.approx(-np.log([0.7, 0.9]).mean())


def test_versions_are_kept_apart():
    predictions, labels = tables([0.9, 0.1, 0.9, 0.1], [1, 0, 0, 1])
    predictions = predictions.set_column(2, "model_version", pa.array([1, 1, 2, 2]))
    rows = realised_performance(predictions, labels, "customer")
    assert [(row.model_version, row.auc) for row in rows] == [(1, 1.0), (2, 0.0)]


def test_list_columns_do_not_disturb():
    assert measure([0.9, 0.1], [1, 0], reasons=[["a"], []])[0].auc == 1.0


@pytest.mark.parametrize("which", [0, 1])
def test_a_key_that_occurs_twice_is_refused(which):
    both = list(tables([0.9, 0.1], [1, 0]))
    both[which] = pa.concat_tables([both[which], both[which].slice(0, 1)])
    with pytest.raises(ValidationError, match="one row per key"):
        realised_performance(*both, "customer")


def test_missing_labels_are_counted_up_to_a_limit():
    predictions, labels = tables([0.9, 0.1, 0.5, 0.4], [1, 0, 1, None])
    with pytest.raises(ValidationError, match="1 of 4 predictions have no label"):
        realised_performance(predictions, labels, "customer")
    row = realised_performance(predictions, labels, "customer", max_unlabelled_ratio=0.25)[0]
    assert (row.rows, row.unlabelled) == (3, 1)
    # A label that is absent counts like one that is null.
    present = labels.filter(pa.compute.is_valid(labels["label"]))
    assert realised_performance(predictions, present, "customer", max_unlabelled_ratio=0.25) == [
        row
    ]


def test_labels_of_entities_that_were_not_scored_are_no_error():
    predictions, labels = tables([0.9, 0.1, 0.5], [1, 0, 1])
    rows = realised_performance(predictions.slice(0, 2), labels, "customer")
    assert (rows[0].rows, rows[0].unlabelled) == (2, 0)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([1.2, 0.1], [1, 0]),
        ([None, 0.1], [1, 0]),
        ([float("nan"), 0.1], [1, 0]),
        ([0.9, 0.1], [2, 0]),
    ],
)
def test_impossible_values_are_refused(scores, labels):
    with pytest.raises(ValidationError, match="expected probabilities and labels 0 or 1"):
        measure(scores, labels)


def test_nothing_to_measure_is_not_ready():
    predictions, labels = tables([0.9, 0.1], [1, 0])
    for empty in ((predictions.slice(0, 0), labels), (predictions, labels.slice(0, 0))):
        with pytest.raises(NotReadyError, match="needs both"):
            realised_performance(*empty, "customer")


def judge(rows, holdout, **demands):
    return judge_performance(rows, holdout, Monitoring(max_auc_drop=0.05), **demands)[0]


def test_a_fall_below_the_holdout_is_degraded():
    rows = large(0.5)
    auc = rows[0].auc
    assert judge(rows, {3: auc + 0.06}).degraded
    assert not judge(rows, {3: auc + 0.04}).degraded
    assert not judge(rows, {3: auc - 0.3}).degraded
    assert judge(rows, {3: auc + 0.06}).holdout_auc == auc + 0.06


def test_too_few_rows_judge_nothing():
    rows = large(0.0, rows=150)
    found = judge(rows, {3: 0.99})
    assert not found.degraded
    assert "too little to judge: 150 rows" in found.reason
    assert judge(rows, {3: 0.99}, min_rows=100).degraded
    assert not judge(rows, {3: 0.99}, min_rows=100, min_minority=100).degraded
    one_class = measure([0.5] * 300, [0] * 300)
    assert not judge(one_class, {3: 0.99}).degraded


def test_a_version_is_held_against_its_own_holdout():
    found = judge(large(0.0), {4: 0.99})
    assert not found.degraded
    assert "no holdout AUC" in found.reason


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=2, max_size=60))
def test_flipping_scores_and_labels_mirrors(pairs):
    scores, labels = [score for score, _ in pairs], [label for _, label in pairs]
    row = measure(scores, labels)[0]
    mirrored = measure(scores, [1 - label for label in labels])[0]
    assert mirrored.base_rate == pytest.approx(1 - row.base_rate)
    assert mirrored.minority_rows == row.minority_rows
    if row.auc is not None:
        assert mirrored.auc == pytest.approx(1 - row.auc)


def test_the_table_has_the_declared_schema():
    rows = judge_performance(large(0.5), {3: 0.9}, Monitoring())
    table = performance_table(date(2026, 3, 1), rows)
    assert table.schema == PERFORMANCE
    assert table["degraded"].to_pylist() == [True]
