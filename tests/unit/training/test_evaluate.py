import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from evergreen.contract import as_of
from evergreen.errors import NotReadyError, ValidationError
from evergreen.training.baselines import fit_baselines
from evergreen.training.evaluate import calibration_table, evaluate, measure_auc


def truth_of(rows, plan):
    last = pc.equal(rows["as_of"], pa.scalar(as_of(plan.holdout[0]), rows["as_of"].type))
    return rows.filter(last).select(["customer_id", "probability"])


def test_model_lies_between_baselines_and_the_oracle(fitted, split, use_case, rows, plan):
    oracle = truth_of(rows, plan)
    shuffled = oracle.take(np.random.default_rng(0).permutation(oracle.num_rows))
    evaluation = evaluate(fitted.booster, split.holdout, use_case, threads=2, oracle=shuffled)
    recency, regression = fit_baselines(split, use_case)
    assert 0.6 < recency.auc < evaluation.auc < evaluation.oracle_auc + 0.01
    # The population is logistic in log features, so the regression must come close to the truth.
    assert regression.auc == pytest.approx(evaluation.oracle_auc, abs=0.02)
    assert evaluation.auc == pytest.approx(evaluation.oracle_auc, abs=0.04)
    assert evaluation.logloss < recency.logloss < np.log(2)
    assert evaluation.metrics()["oracle_auc"] == evaluation.oracle_auc
    assert evaluation.latency_ms_per_1k > 0
    by_hand = np.mean(
        (fitted.booster.inplace_predict(split.holdout.matrix) - split.holdout.target) ** 2
    )
    assert evaluation.brier == pytest.approx(by_hand, rel=1e-5)


def test_recency_ranks_in_the_declared_direction_even_if_data_disagree(split, use_case):
    def declare(direction):
        column = use_case.features.columns["idle_days"].model_copy(update={"monotone": direction})
        columns = {**use_case.features.columns, "idle_days": column}
        features = use_case.features.model_copy(update={"columns": columns})
        return use_case.model_copy(update={"features": features})

    up, learnt, down = (
        fit_baselines(split, declare(direction))[0].auc
        for direction in ("increasing", "none", "decreasing")
    )
    assert up == learnt == pytest.approx(1 - down)
    assert up > 0.6


def test_baselines_survive_features_that_are_always_null(split, use_case):
    matrix = split.refit.matrix.copy()
    matrix[:, use_case.feature_names.index("gap_days")] = np.nan
    bare = dataclasses.replace(split, refit=dataclasses.replace(split.refit, matrix=matrix))
    assert fit_baselines(bare, use_case)[1].auc > 0.6


def test_one_class_has_no_auc():
    with pytest.raises(NotReadyError, match="0 true labels in 3 rows"):
        measure_auc(np.zeros(3), np.array([0.1, 0.2, 0.3]))


def test_oracle_must_know_everybody(fitted, split, use_case, rows, plan):
    with pytest.raises(ValidationError, match="lacks 1 of"):
        evaluate(
            fitted.booster,
            split.holdout,
            use_case,
            threads=2,
            oracle=truth_of(rows, plan).slice(1),
        )


def test_calibration_bins_hold_every_row_once_in_order_of_score():
    rng = np.random.default_rng(8)
    scores = rng.random(1003)
    target = (rng.random(1003) < scores).astype(float)
    bins = calibration_table(target, scores)
    assert sum(part.rows for part in bins) == 1003
    assert [part.mean_score for part in bins] == sorted(part.mean_score for part in bins)
    assert all(abs(part.mean_score - part.observed_rate) < 0.15 for part in bins)
    assert len(calibration_table(target[:3], scores[:3])) == 3
