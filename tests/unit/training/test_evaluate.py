import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from evergreen.training.baselines import measure_baselines
from evergreen.training.evaluate import calibration_table, evaluate


def test_model_lies_between_baselines_and_the_truth(fitted, split, use_case, rows, plan):
    instant = pa.scalar(use_case.as_of(plan.holdout[0]), rows["as_of"].type)
    truth = rows.filter(pc.equal(rows["as_of"], instant))["probability"].to_numpy()
    best = use_case.target.measure(split.holdout.labels, truth)
    evaluation = evaluate(fitted.booster, split, use_case.target, threads=2)
    baselines = measure_baselines(split, use_case)
    assert list(baselines) == ["idle_days", "logistic_regression"]
    recency, regression = baselines.values()
    found = evaluation.metrics
    assert 0.6 < recency["auc"] < found["auc"] < best["auc"] + 0.01
    # The population is logistic in log features, so the regression must come close to the truth.
    assert regression["auc"] == pytest.approx(best["auc"], abs=0.02)
    assert found["auc"] == pytest.approx(best["auc"], abs=0.04)
    assert found["logloss"] < recency["logloss"] < np.log(2)
    assert evaluation.latency_ms_per_1k > 0
    assert evaluation.counts["rows"] == split.holdout.rows
    assert evaluation.mean_label == pytest.approx(split.holdout.labels.mean())
    by_hand = np.mean(
        (fitted.booster.inplace_predict(split.holdout.matrix) - split.holdout.labels) ** 2
    )
    assert found["brier"] == pytest.approx(by_hand, rel=1e-5)
    assert evaluation.numbers()["auc"] == found["auc"]


def test_baselines_survive_features_that_are_always_null(split, use_case):
    matrix = split.refit.matrix.copy()
    matrix[:, use_case.feature_names.index("gap_days")] = np.nan
    bare = dataclasses.replace(split, refit=dataclasses.replace(split.refit, matrix=matrix))
    assert measure_baselines(bare, use_case)["logistic_regression"]["auc"] > 0.6


def test_calibration_bins_hold_every_row_once_in_order_of_score():
    rng = np.random.default_rng(8)
    scores = rng.random(1003)
    labels = (rng.random(1003) < scores).astype(float)
    bins = calibration_table(labels, scores)
    assert sum(part.rows for part in bins) == 1003
    assert [part.mean_score for part in bins] == sorted(part.mean_score for part in bins)
    assert all(abs(part.mean_score - part.mean_label) < 0.15 for part in bins)
    assert len(calibration_table(labels[:3], scores[:3])) == 3
