from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from evergreen.contract import UseCase
from evergreen.errors import NotReadyError, ValidationError
from evergreen.monitoring.performance import (
    PERFORMANCE,
    performance_table,
    realised_performance,
)
from tiny_people import FEATURES, declare

CHURN = declare({"name": "gone"}, FEATURES)
SPEND = declare({"kind": "number", "name": "spent", "distribution": "poisson"}, FEATURES)


def allowing(drop: float | None, use_case: UseCase = CHURN) -> UseCase:
    monitoring = use_case.monitoring.model_copy(update={"max_performance_drop": drop})
    return use_case.model_copy(update={"monitoring": monitoring})


def tables(scores, labels, **more):
    keys = [f"c{n}" for n in range(len(scores))]
    predictions = {"customer_id": keys, "score": scores, "model_version": [3] * len(keys)}
    known = pa.table({"customer_id": keys[::-1], "label": labels[::-1]})
    return pa.table({**predictions, "band": ["one"] * len(keys), **more}), known


def rows_of(scores, labels, use_case=CHURN, holdout=None, **more):
    return realised_performance(
        *tables(scores, labels, **more), use_case, {3: {"all": holdout or {}}}
    )


def measure(*arguments, name="all", **more):
    """Value per metric of one slice."""
    rows = rows_of(*arguments, **more)
    return {row.metric: row.value for row in rows if row.slice == name}


def judge(scores, labels, holdout, use_case=CHURN):
    (row,) = (row for row in rows_of(scores, labels, use_case, holdout) if row.reason)
    assert (row.slice, row.metric) == ("all", use_case.target.main_metric)
    return row


def large(shift, rows=2_000, seed=1):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, rows)
    scores = 1 / (1 + np.exp(-generator.normal(shift * labels, 1.0)))
    return scores.tolist(), labels.tolist()


def test_the_targets_metrics_and_two_means():
    found = measure([0.9, 0.6, 0.4, 0.2], [1, 0, 1, 0])
    assert list(found) == [*CHURN.target.metrics, "mean_label", "mean_score"]
    assert found["auc"] == 0.75
    assert (found["mean_label"], found["mean_score"]) == (0.5, pytest.approx(0.525))
    row = rows_of([0.9, 0.6, 0.4, 0.2], [1, 0, 1, 0])[0]
    assert (row.model_version, row.slice, row.rows, row.unlabelled) == (3, "all", 4, 0)


def test_numbers_are_measured_by_the_same_table():
    found = measure([1.0, 1.0, 2.0, 4.0], [0.0, 1.0, 4.0, 3.0], use_case=SPEND)
    assert list(found) == ["d2", "deviance", "mae", "rmse", "mean_label", "mean_score"]
    assert (found["mae"], found["mean_label"], found["mean_score"]) == (1.0, 2.0, 2.0)


def test_intervals_are_measured_where_a_day_was_scored_with_any():
    spent = {"kind": "number", "name": "spent", "distribution": "poisson", "interval": 0.5}
    asked = declare(spent, FEATURES)
    scores, labels = [1.0, 2.0, 4.0, 1.0], [0.0, 2.0, 6.0, 1.0]
    ends = {"lower": [0.0, 1.0, 3.0, 2.0], "upper": [2.0, 3.0, 5.0, 3.0]}
    found = measure(scores, labels, asked, **ends)
    assert (found["coverage"], found["interval_width"]) == (0.5, 7 / 4)
    none = pa.nulls(4, pa.float64())
    for without in ({}, {"lower": none, "upper": none}):
        found = measure(scores, labels, asked, **without)
        assert (found["coverage"], found["interval_width"]) == (None, None)
    assert "coverage" not in measure(scores, labels, SPEND, **ends)


def test_bands_are_slices_and_add_up():
    bands = ["high", "high", "low", "low"]
    rows = rows_of([0.9, 0.8, 0.3, 0.1], [1, 0, 0, 0], holdout={"auc": 0.9}, band=bands)
    sizes = {row.slice: row.rows for row in rows}
    assert sizes == {"all": 4, "band=high": 2, "band=low": 2}
    low = {row.metric: row for row in rows if row.slice == "band=low"}
    # One class only: no AUC, everything else stands; and bands are not judged.
    assert low["auc"].value is None
    assert low["mean_label"].value == 0.0
    assert low["logloss"].value == pytest.approx(-np.log([0.7, 0.9]).mean())
    assert {(row.holdout, row.reason) for row in low.values()} == {(None, "")}


def test_versions_are_kept_apart():
    both = pa.array([1, 1, 2, 2])
    rows = rows_of([0.9, 0.1, 0.9, 0.1], [1, 0, 0, 1], model_version=both)
    found = [(r.model_version, r.value) for r in rows if (r.slice, r.metric) == ("all", "auc")]
    assert found == [(1, 1.0), (2, 0.0)]


def test_list_columns_do_not_disturb():
    assert measure([0.9, 0.1], [1, 0], reasons=[["a"], []])["auc"] == 1.0


@pytest.mark.parametrize("which", [0, 1])
def test_a_key_that_occurs_twice_is_refused(which):
    both = list(tables([0.9, 0.1], [1, 0]))
    both[which] = pa.concat_tables([both[which], both[which].slice(0, 1)])
    with pytest.raises(ValidationError, match="one row per key"):
        realised_performance(*both, CHURN, {})


def test_missing_labels_are_counted_up_to_a_limit():
    scores, labels = large(0.5, rows=400)
    few = [None] * 4 + labels[4:]
    row = rows_of(scores, few)[0]
    assert (row.rows, row.unlabelled) == (396, 4)
    # A label that is absent counts like one that is null.
    predictions, known = tables(scores, few)
    present = known.filter(pa.compute.is_valid(known["label"]))
    assert realised_performance(predictions, present, CHURN, {})[0] == row
    with pytest.raises(ValidationError, match="5 of 400 predictions have no label"):
        rows_of(scores, [None] * 5 + labels[5:])


def test_labels_of_entities_that_were_not_scored_are_no_error():
    predictions, labels = tables([0.9, 0.1, 0.5], [1, 0, 1])
    rows = realised_performance(predictions.slice(0, 2), labels, CHURN, {})
    assert (rows[0].rows, rows[0].unlabelled) == (2, 0)


@pytest.mark.parametrize(
    ("scores", "labels", "use_case", "message"),
    [
        ([1.2, 0.1], [1, 0], CHURN, "1 scores that are missing .* from 0.0 to 1.0"),
        ([None, 0.1], [1, 0], CHURN, "1 scores"),
        ([float("nan"), 0.1], [1, 0], CHURN, "1 scores"),
        ([-0.5, 0.1], [1, 0], SPEND, "1 scores .* from 0.0 to None"),
        ([0.9, 0.1], [2, 0], CHURN, "1 labels such as 2"),
        ([0.9, 0.1], [-2, 0], SPEND, "1 labels such as -2"),
    ],
)
def test_impossible_values_are_refused(scores, labels, use_case, message):
    with pytest.raises(ValidationError, match=message):
        rows_of(scores, labels, use_case)


def test_nothing_to_measure_is_not_ready():
    predictions, labels = tables([0.9, 0.1], [1, 0])
    for empty in ((predictions.slice(0, 0), labels), (predictions, labels.slice(0, 0))):
        with pytest.raises(NotReadyError, match="needs both"):
            realised_performance(*empty, CHURN, {})


@pytest.mark.parametrize("use_case", [CHURN, SPEND], ids=["binary", "number"])
def test_a_sure_fall_below_the_holdout_is_degraded(use_case):
    if use_case is CHURN:
        scores, labels = large(0.5)
    else:
        scores = np.random.default_rng(2).gamma(2.0, 1.0, 2_000).tolist()
        labels = np.random.default_rng(3).poisson(scores).tolist()
    metric = use_case.target.main_metric
    found = rows_of(scores, labels, use_case)[0]
    value, reach = found.value, (found.upper - found.lower) / 2

    def judged(holdout, declared=use_case, **bounds):
        known = {metric: holdout} | {f"{metric}_{end}": at for end, at in bounds.items()}
        return judge(scores, labels, known, declared)

    for drop, allowed in ((0.02, 0.02), (None, use_case.target.max_drop)):
        declared = allowing(drop, use_case)
        # Of a holdout that is known exactly, the day's own chance is all there is.
        for beyond, degraded in ((0.001, True), (-0.001, False)):
            at = value + reach + allowed + beyond
            assert judged(at, declared, low=at, high=at).degraded is degraded
            # One without bounds is as unsure as the day.
            at = value + np.sqrt(2) * reach + allowed + beyond
            assert judged(at, declared).degraded is degraded
        assert not judged(value - 0.3, declared).degraded
    lower = judged(value + use_case.target.max_drop + 0.001)
    assert not lower.degraded
    assert "may by chance be below" in lower.reason
    found = judged(value + 2.0)
    assert (found.holdout, found.degraded) == (value + 2.0, True)
    assert found.reason.startswith(f"{metric} {value:.4f} (give or take ")


def test_bounds_hold_what_other_customers_would_have_shown():
    """Nine in ten or more of the 95 % intervals hold the value of a very large sample."""
    truth = {name: measure(*large(0.5, rows=200_000))[name] for name in ("auc", "logloss")}
    held = dict.fromkeys(truth, 0)
    for seed in range(120):
        found = {row.metric: row for row in rows_of(*large(0.5, rows=1_000, seed=seed + 100))[:2]}
        for name, value in truth.items():
            held[name] += found[name].lower <= value <= found[name].upper
    assert min(held.values()) >= 108


def test_declared_slices_are_judged_by_their_own_holdouts():
    scores, labels = large(0.8)
    # In the second half the scores say nothing.
    mixed = scores[:1000] + np.random.default_rng(5).permutation(scores[1000:]).tolist()
    predictions, known = tables(mixed, labels)
    keys = predictions["customer_id"]
    features = pa.table({"customer_id": keys, "kind": ["a"] * 1000 + ["b"] * 1000})
    training = CHURN.training.model_copy(update={"slices": {"kind": ()}})
    sliced = CHURN.model_copy(update={"training": training})
    promised = {"all": {"auc": 0.71}, "kind=a": {"auc": 0.71}, "kind=b": {"auc": 0.71}}
    rows = realised_performance(predictions, known, sliced, {3: promised}, features)
    found = {row.slice: row for row in rows if row.metric == "auc"}
    assert [name for name, row in found.items() if row.degraded] == ["all", "kind=b"]
    assert found["kind=b"].rows == 1000
    # What has no holdout is shown and not judged.
    rows = realised_performance(predictions, known, sliced, {3: {"all": {"auc": 0.71}}}, features)
    assert {row.reason for row in rows if row.slice == "kind=b"} == {""}
    # An entity whose features are gone is in no slice, and in `all` as before.
    rows = realised_performance(predictions, known, sliced, {}, features.slice(0, 900))
    sizes = {row.slice: row.rows for row in rows}
    assert (sizes["all"], sizes["kind=a"], "kind=b" in sizes) == (2000, 900, False)


def test_too_few_rows_judge_nothing():
    found = judge(*large(0.0, rows=150), {"auc": 0.99})
    assert not found.degraded
    assert "too little to judge: found 150 rows" in found.reason
    rare = judge([0.5] * 300, [1] * 29 + [0] * 271, {"auc": 0.99})
    assert not rare.degraded
    assert "29 minority rows" in rare.reason
    # Equal labels have no d2, however many there are.
    equal = judge([0.5] * 300, [1] * 300, {"d2": 0.99}, SPEND)
    assert not equal.degraded
    assert "d2 does not exist" in equal.reason
    assert judge(*large(0.0, rows=300), {"auc": 0.99}).degraded


def test_a_version_is_held_against_its_own_holdout():
    predictions, labels = tables(*large(0.0))
    rows = realised_performance(predictions, labels, CHURN, {4: {"all": {"auc": 0.99}}})
    assert not any(row.degraded for row in rows)
    assert any("version 3 has no auc of a holdout" in row.reason for row in rows)


def test_the_table_has_the_declared_schema():
    scores, labels = large(0.5)
    rows = rows_of(scores, labels, holdout={"auc": 0.9, "mean_label": 0.5})
    table = performance_table(date(2026, 3, 1), rows)
    assert table.schema == PERFORMANCE
    found = {(r["slice"], r["metric"]): r for r in table.to_pylist()}
    assert [key for key, row in found.items() if row["degraded"]] == [("all", "auc")]
    assert found["all", "mean_label"]["holdout"] == 0.5
    assert found["band=one", "auc"]["holdout"] is None
