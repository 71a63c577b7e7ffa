import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from evergreen.statistics import interval, of_rows, resample
from evergreen.training.baselines import score_baselines
from evergreen.training.evaluate import Holdout, calibration_table, compare
from evergreen.training.frame import label_rows


def test_model_lies_between_baselines_and_the_truth(
    pair, holdout, evaluation, use_case, rows, plan
):
    instant = pa.scalar(use_case.as_of(plan.holdout), rows["as_of"].type)
    truth = rows.filter(pc.equal(rows["as_of"], instant))["probability"].to_numpy()
    best = use_case.target.measure(holdout.labels, truth)
    assert list(evaluation.baselines) == ["naive", "idle_days", "linear"]
    _, recency, regression = evaluation.baselines.values()
    found = evaluation.metrics
    assert 0.6 < recency["auc"] < found["auc"] < best["auc"] + 0.01
    # The population is logistic in log features, so the regression must come close to the truth.
    assert regression["auc"] == pytest.approx(best["auc"], abs=0.02)
    assert found["auc"] == pytest.approx(best["auc"], abs=0.04)
    assert found["logloss"] < recency["logloss"] < np.log(2)
    assert evaluation.latency_ms_per_1k > 0
    assert evaluation.counts["rows"] == len(holdout.labels)
    assert evaluation.mean_label == pytest.approx(holdout.labels.mean())
    by_hand = np.mean((holdout.score(pair.measured) - holdout.labels) ** 2)
    assert found["brier"] == pytest.approx(by_hand)
    assert evaluation.numbers()["auc"] == found["auc"]
    for name, (low, high) in evaluation.intervals.items():
        assert low < found[name] < high or name == "ece"
    over = evaluation.over_baselines
    assert over["naive"].lower > over["idle_days"].lower > 0
    assert over["linear"].lower < 0.01


def test_baselines_survive_features_that_are_always_null(rows, plan, use_case, fitter):
    place = rows.column_names.index("gap_days")
    bare = rows.set_column(place, "gap_days", pa.nulls(rows.num_rows, pa.float64()))
    labelled = label_rows(bare, plan, use_case)
    scores = score_baselines(labelled, plan.evaluation, fitter)["linear"]
    labels = Holdout.of(labelled, plan, fitter).labels
    assert use_case.target.measure(labels, scores)["auc"] > 0.6


def test_a_comparison_is_paired(use_case):
    """Two good scores that hardly differ: their difference is surer than either."""
    rng = np.random.default_rng(4)
    odds = rng.normal(0, 1.5, 800)
    labels = (rng.random(800) < 1 / (1 + np.exp(-odds))).astype(float)
    first, second = (1 / (1 + np.exp(-(odds + rng.normal(0, s, 800)))) for s in (0.1, 0.4))
    found = compare(use_case.target, labels, first, second, seed=1)
    assert set(found) == set(use_case.target.metrics)
    low, high = interval(
        resample(of_rows(use_case.target.resampled, labels, first), 800, resamples=500, seed=1)[
            "brier"
        ],
        level=0.95,
    )
    brier = found["brier"]
    assert brier.lower < brier.estimate < brier.upper < 0
    assert brier.upper - brier.lower < 0.6 * (high - low)
    swapped = compare(use_case.target, labels, second, first, seed=1)["brier"]
    assert (swapped.lower, swapped.upper) == pytest.approx((-brier.upper, -brier.lower))


def test_calibration_bins_hold_every_row_once_in_order_of_score():
    rng = np.random.default_rng(8)
    scores = rng.random(1003)
    labels = (rng.random(1003) < scores).astype(float)
    bins = calibration_table(labels, scores)
    assert sum(part.rows for part in bins) == 1003
    assert [part.mean_score for part in bins] == sorted(part.mean_score for part in bins)
    assert all(abs(part.mean_score - part.mean_label) < 0.15 for part in bins)
    assert len(calibration_table(labels[:3], scores[:3])) == 3
