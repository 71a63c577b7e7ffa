from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from evergreen.training.slices import find_slices, measure_bias


def sliced(use_case, slices, table):
    training = use_case.training.model_copy(update={"slices": slices})
    found = find_slices(use_case.model_copy(update={"training": training}), table)
    return {name: np.flatnonzero(mask).tolist() for name, mask in found}


def test_values_bounds_and_missing_ones_are_slices_of_their_own(use_case):
    table = pa.table(
        {
            "vip": [True, False, None, True],
            "country": pa.array(["DE", "FR", "DE", None]),
            "idle_days": [0.0, 30.0, 99.0, None],
        }
    )
    assert sliced(use_case, {"vip": (), "country": ()}, table) == {
        "vip=true": [0, 3],
        "vip=false": [1],
        "vip missing": [2],
        "country=DE": [0, 2],
        "country=FR": [1],
        "country missing": [3],
    }
    assert sliced(use_case, {"idle_days": (30.0, 200.0)}, table) == {
        "idle_days<30": [0],
        "30<=idle_days<200": [1, 2],
        "idle_days missing": [3],
    }
    assert sliced(use_case, {}, table) == {}


def test_slices_are_compared_with_everybody_else(use_case, holdout):
    rng = np.random.default_rng(4)
    rows = 6_000
    vip = rng.random(rows) < 0.4
    likely = np.where(vip, 0.2, 0.6) * rng.uniform(0.5, 1.5, rows)
    labels = (rng.random(rows) < likely).astype(float)
    # Too high a score for those who matter.
    scores = likely + np.where(vip, 0.1, 0.0)
    features = pa.table({"vip": vip, "idle_days": rng.exponential(30.0, rows)})
    given = replace(holdout, labels=labels, features=features)
    training = use_case.training.model_copy(update={"slices": {"vip": (), "idle_days": (30.0,)}})
    scoring = use_case.scoring.model_copy(update={"bands": {"high": 0.5, "low": 0.0}})
    declared = use_case.model_copy(update={"training": training, "scoring": scoring})
    found = measure_bias(declared, given, scores)

    acted = scores >= 0.5
    here = found["vip"].slices["vip=true"]
    assert here.rows == vip.sum()
    assert here.rates["selection_rate"] == pytest.approx(acted[vip].mean())
    assert here.rates["recall"] == pytest.approx(acted[vip & (labels == 1)].mean())
    assert here.rates["false_positive_rate"] == pytest.approx(acted[vip & (labels == 0)].mean())
    # Nobody of them is selected, so nobody can be selected rightly.
    assert here.rates["precision"] is None
    assert here.metrics["auc"] == pytest.approx(roc_auc_score(labels[vip], scores[vip]))
    error = here.beyond_rest["mean_error"]
    assert error.lower < 0.1 < error.upper
    assert error.lower > 0
    assert found["vip"].difference["selection_rate"] == pytest.approx(
        acted[~vip].mean() - acted[vip].mean()
    )
    assert found["vip"].ratio["selection_rate"] == acted[vip].mean() / acted[~vip].mean()
    assert found["vip"].difference["precision"] is None
    # What has nothing to do with it differs by chance.
    same = found["idle_days"].slices["idle_days<30"].beyond_rest["mean_error"]
    assert abs(same.estimate) < 3 * same.error


def test_slices_too_small_to_judge_are_left_out(use_case, holdout):
    features = pa.table({"vip": [n < 20 for n in range(holdout.features.num_rows)]})
    given = replace(holdout, features=features)
    found = measure_bias(use_case, given, np.full(len(holdout.labels), 0.5))
    assert list(found["vip"].slices) == ["vip=false"]
    assert found["vip"].difference["selection_rate"] is None
