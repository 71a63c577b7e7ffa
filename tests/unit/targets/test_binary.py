import numpy as np
import pyarrow as pa
import pytest

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


def test_one_class_has_no_auc_and_no_rows_have_nothing():
    assert set(measure([0.9, 0.6], [1, 1])) == {"logloss", "brier"}
    assert measure([], []) == {}


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
