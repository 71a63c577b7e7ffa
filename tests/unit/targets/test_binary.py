import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError as PydanticError
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from evergreen.errors import NotReadyError, ValidationError
from evergreen.targets import BinaryTarget

TARGET = BinaryTarget(name="gone", description="Gone.", horizon_days=30)


def measure(scores, labels):
    return TARGET.measure(np.array(labels, dtype=float), np.array(scores))


def test_metrics_by_hand():
    found = measure([0.9, 0.6, 0.4, 0.2], [1, 0, 1, 0])
    assert list(found) == list(TARGET.metrics)
    assert found["auc"] == 0.75
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.04) / 4)
    assert found["logloss"] == pytest.approx(-np.log([0.9, 0.4, 0.4, 0.8]).mean())
    assert found["pr_auc"] == pytest.approx((1 + 2 / 3) / 2)
    # A tenth of four rows is less than half of the first.
    assert found["recall_10"] == pytest.approx(0.4 / 2)
    assert found["lift_10"] == pytest.approx(0.4 / 0.4 / 0.5)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=60),
    st.integers(0, 5),
)
def test_metrics_are_scikit_learns_also_under_weights_and_ties(rows, seed):
    labels = np.array([float(label) for label, _ in rows])
    scores = np.array([score / 10 + 0.1 for _, score in rows])
    weights = np.random.default_rng(seed).poisson(1.0, (3, len(rows))).astype(np.uint16)
    found = TARGET.resampled(labels, scores)(weights)
    for sample, drawn in enumerate(weights):
        taken = np.repeat(np.arange(len(rows)), drawn)
        if 0 < labels[taken].sum() < len(taken):
            y, s = labels[taken], scores[taken]
            assert found["auc"][sample] == pytest.approx(roc_auc_score(y, s))
            assert found["pr_auc"][sample] == pytest.approx(average_precision_score(y, s))
            assert found["logloss"][sample] == pytest.approx(log_loss(y, s))
            assert found["brier"][sample] == pytest.approx(brier_score_loss(y, s))
        else:
            assert np.isnan(found["auc"][sample])


def test_calibration_error_is_the_distance_in_bins():
    rng = np.random.default_rng(1)
    scores = rng.random(50_000)
    labels = (rng.random(50_000) < scores).astype(float)
    assert TARGET.measure(labels, scores)["ece"] < 0.01
    assert TARGET.measure(labels, np.sqrt(scores))["ece"] == pytest.approx(1 / 6, abs=0.01)


def test_one_class_has_no_auc_and_no_rows_have_nothing():
    assert set(measure([0.9, 0.6], [1, 1])) == {*TARGET.metrics} - {"auc"}
    assert measure([], []) == {}


def test_a_decision_is_worth_what_is_declared():
    worth = {"true_positive": 8.0, "false_positive": -2.0, "false_negative": -1.0}
    target = BinaryTarget(name="gone", description="Gone.", horizon_days=30, values=worth)
    # 2 are lost by acting in vain, 9 are gained by acting rightly.
    assert target.values.threshold == pytest.approx(2 / 11)
    assert [*target.all_metrics] == [*TARGET.metrics, "value"]
    labels = np.array([1.0, 0.0, 1.0, 0.0])
    scores = np.array([0.9, 0.2, 0.1, 0.1])
    assert target.measure(labels, scores)["value"] == (8 - 2 - 1 + 0) / 4
    # Acting from the threshold on is the best that calibrated scores allow.
    rng = np.random.default_rng(2)
    likely = rng.random(100_000)
    happened = (rng.random(100_000) < likely).astype(float)
    best = target.measure(happened, likely)["value"]
    for bound in (0.1, 0.3, 0.5):
        elsewhere = np.where(likely >= bound, 1.0, 0.0)
        assert target.measure(happened, elsewhere)["value"] < best


@pytest.mark.parametrize(
    "worth",
    [
        {"true_positive": 0.0, "false_positive": -2.0},
        {"true_positive": 8.0, "false_positive": 0.0},
    ],
)
def test_values_must_leave_something_to_decide(worth):
    with pytest.raises(PydanticError, match="always right or always wrong"):
        BinaryTarget(name="gone", description="Gone.", horizon_days=30, values=worth)


def test_labels_are_true_or_false():
    assert TARGET.read_labels(pa.chunked_array([[True, False]])).tolist() == [1.0, 0.0]
    with pytest.raises(ValidationError, match="1 labels such as 2; expected true or false of gone"):
        TARGET.read_labels(pa.chunked_array([[0, 1, 2]]))


def test_what_is_enough_to_judge():
    def enough(positives, rows):
        labels = np.zeros(rows)
        labels[:positives] = 1
        return TARGET.too_few(TARGET.count(labels))

    assert enough(30, 200) is None
    assert enough(170, 200) is None
    assert enough(171, 200) == "found 29 minority rows; expected 200 rows, 30 minority rows"
    assert enough(60, 199) == "found 199 rows; expected 200 rows, 30 minority rows"


def test_equal_labels_teach_nothing():
    TARGET.require_learnable(np.array([0.0, 1.0]), "fit")
    with pytest.raises(NotReadyError, match="All 3 labels of the fit rows are 0"):
        TARGET.require_learnable(np.zeros(3), "fit")
