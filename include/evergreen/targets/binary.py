"""Whether something will happen: churned, bought, answered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from evergreen.contract.dtypes import Dtype
from evergreen.targets.base import TargetModel

if TYPE_CHECKING:
    from evergreen.targets.base import Vector


class BinaryTarget(TargetModel):
    """A label that is true or false; the score is the probability that it is true."""

    kind: Literal["binary"] = "binary"

    label_dtype: ClassVar[Dtype] = "bool"
    metrics: ClassVar[Mapping[str, tuple[float, float]]] = {
        "auc": (0.0, 1.0),
        "logloss": (0.0, math.inf),
        "brier": (0.0, 1.0),
    }
    limits: ClassVar[Mapping[str, float]] = {"min_auc": 0.6, "max_logloss": 0.69}
    max_drop: ClassVar[float] = 0.05
    enough: ClassVar[Mapping[str, int]] = {"rows": 200, "minority_rows": 30}
    default_bands: ClassVar[Mapping[str, float]] = {"high": 0.7, "medium": 0.4, "low": 0.0}

    @property
    def score_range(self) -> tuple[float, float]:
        """A probability."""
        return (0.0, 1.0)

    def impossible_labels(self, labels: Vector) -> str | None:
        """Labels are 0 or 1."""
        wrong = labels[(labels != 0) & (labels != 1)]
        return (
            f"Found {len(wrong)} labels such as {wrong[0]:g}; expected true or false"
            if len(wrong)
            else None
        )

    def count(self, labels: Vector) -> dict[str, int]:
        """Count the rows, and those of the rarer class."""
        positives = int(labels.sum())
        return {"rows": len(labels), "minority_rows": min(positives, len(labels) - positives)}

    def booster_parameters(self) -> dict[str, Any]:
        """Log loss."""
        return {"objective": "binary:logistic", "eval_metric": "logloss"}

    def measure(self, labels: Vector, scores: Vector) -> dict[str, float]:
        """Area under the ROC curve, mean log loss (nats), mean squared error of the probability.

        One class alone has no ROC curve.
        """
        from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

        found = {}
        if 0 < labels.sum() < len(labels):
            found["auc"] = float(roc_auc_score(labels, scores))
        if len(labels):
            found["logloss"] = float(log_loss(labels, scores, labels=[0.0, 1.0]))
            found["brier"] = float(brier_score_loss(labels, scores, labels=[0.0, 1.0], pos_label=1))
        return found

    def regression(self) -> Any:
        """Logistic regression."""
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(max_iter=2_000)

    def baselines(self) -> dict[str, Any]:
        """Logistic regression."""
        return {"logistic_regression": self.regression()}

    def predict_baseline(self, fitted: Any, inputs: Any) -> Vector:
        """Return probabilities."""
        probabilities: Vector = fitted.predict_proba(inputs)[:, 1]
        return probabilities

    def draw(self, labels: Vector, scores: Vector, folder: Path) -> None:
        """Draw the ROC curve."""
        from evergreen.training.plots import draw_roc

        draw_roc(labels, scores, folder / "roc.png")
