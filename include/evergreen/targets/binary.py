"""Whether something will happen: churned, bought, answered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import model_validator

from evergreen.contract.base import Model, raise_if
from evergreen.contract.dtypes import Dtype
from evergreen.targets.base import TargetModel

if TYPE_CHECKING:
    from evergreen.statistics.bootstrap import Metrics, Weights
    from evergreen.targets.base import Vector

# Bins of the calibration error.
_BINS = 10


class Values(Model):
    """What each outcome is worth, in any unit: acted on or not, on one it happens to or not.

    Acting pays from the probability on at which both decisions are worth the same (Elkan 2001).
    """

    true_positive: float
    false_positive: float
    true_negative: float = 0.0
    false_negative: float = 0.0

    @model_validator(mode="after")
    def _a_decision(self) -> Self:
        if not (self._gain > 0 and self._loss > 0):
            raise_if(
                [
                    "found values by which acting is always right or always wrong; expected "
                    "true_positive above false_negative, and false_positive below true_negative"
                ]
            )
        return self

    @property
    def threshold(self) -> float:
        """The probability from which acting pays."""
        return self._loss / (self._gain + self._loss)

    @property
    def _gain(self) -> float:
        return self.true_positive - self.false_negative

    @property
    def _loss(self) -> float:
        return self.true_negative - self.false_positive

    def of(self, labels: Vector, scores: Vector) -> Vector:
        """Value of each row, `[n]`, where it is acted on from the threshold on."""
        import numpy as np

        happened = labels == 1
        return np.where(
            scores >= self.threshold,
            np.where(happened, self.true_positive, self.false_positive),
            np.where(happened, self.false_negative, self.true_negative),
        )


class BinaryTarget(TargetModel):
    """A label that is true or false; the score is the probability that it is true."""

    kind: Literal["binary"] = "binary"
    # What decisions are worth; with it, models are measured by `value` as well.
    values: Values | None = None

    label_dtype: ClassVar[Dtype] = "bool"
    metrics: ClassVar[Mapping[str, tuple[float, float]]] = {
        "auc": (0.0, 1.0),
        "logloss": (0.0, math.inf),
        "brier": (0.0, 1.0),
        # Area under the precision-recall curve: mean precision over the recalled.
        "pr_auc": (0.0, 1.0),
        # Of what happens, the share among the tenth with the highest scores.
        "recall_10": (0.0, 1.0),
        # How many times more of them happen there than among as many drawn at random.
        "lift_10": (0.0, 10.0),
        # Mean distance of score and share over ten bins of equally many rows.
        "ece": (0.0, 1.0),
    }
    limits: ClassVar[Mapping[str, float]] = {"min_auc": 0.6, "max_logloss": 0.69}
    max_drop: ClassVar[float] = 0.05
    enough: ClassVar[Mapping[str, int]] = {"rows": 200, "minority_rows": 30}
    default_bands: ClassVar[Mapping[str, float]] = {"high": 0.7, "medium": 0.4, "low": 0.0}

    is_probability: ClassVar[bool] = True

    @property
    def all_metrics(self) -> Mapping[str, tuple[float, float]]:
        """With `value`, the mean worth of a row, where values are declared."""
        worth = {"value": (-math.inf, math.inf)} if self.values else {}
        return {**super().all_metrics, **worth}

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

    def losses(self, labels: Vector, scores: Vector) -> Vector:
        """Log loss, in nats."""
        import numpy as np

        likely = np.where(labels == 1, scores, 1 - scores)
        return np.asarray(-np.log(np.maximum(likely, np.finfo(np.float64).eps)))

    def resampled(self, labels: Vector, scores: Vector) -> Metrics:
        """Rank metrics along the one order of scores, ties taken together; losses as means.

        One class alone has no ROC curve, no precision and no recall.
        """
        import numpy as np

        from evergreen.statistics import weigh

        order = np.argsort(-scores, kind="stable")
        outcomes, ordered = labels[order], scores[order]
        starts = np.append(0, np.flatnonzero(np.diff(ordered)) + 1)
        losses, excess = self.losses(outcomes, ordered), outcomes - ordered
        bins = np.unique(np.arange(_BINS) * len(ordered) // _BINS)
        worth = self.values.of(outcomes, ordered) if self.values else None

        def metrics(weights: Weights) -> dict[str, Vector]:
            drawn = np.take(weights, order, axis=1).astype(np.float64)
            gaps = np.add.reduceat(drawn * excess, bins, axis=1)
            rows, new, tied = drawn.sum(axis=1), drawn * outcomes, drawn
            if len(starts) < len(order):
                new, tied = (np.add.reduceat(each, starts, axis=1) for each in (new, drawn))
            hits, called = np.cumsum(new, axis=1), np.cumsum(tied, axis=1)
            positives, negatives = hits[:, -1], rows - hits[:, -1]
            before = _products(tied, hits) - _products(new, hits)
            with np.errstate(divide="ignore", invalid="ignore"):
                recall = _reached(called, hits, rows / 10) / positives
                valued = {} if worth is None else {"value": weigh(drawn, worth) / rows}
                return {
                    "auc": (before - _products(tied - new, new) / 2) / (positives * negatives),
                    "logloss": weigh(drawn, losses) / rows,
                    "brier": weigh(drawn, excess**2) / rows,
                    # Where nobody is called yet, nobody is hit.
                    "pr_auc": _products(new, hits / np.maximum(called, 1)) / positives,
                    "recall_10": recall,
                    "lift_10": 10 * recall,
                    "ece": np.abs(gaps).sum(axis=1) / rows,
                    **valued,
                }

        return metrics

    def rates(
        self, labels: Vector, scores: Vector, acted: Vector
    ) -> dict[str, tuple[Vector, Vector]]:
        """Recall, false positive rate and precision as well."""
        hits = acted * labels
        return {
            **super().rates(labels, scores, acted),
            "recall": (hits, labels),
            "false_positive_rate": (acted - hits, 1 - labels),
            "precision": (hits, acted),
        }

    def difference(
        self, labels: Vector, first: Vector, second: Vector, *, level: float
    ) -> tuple[float, float, float, float] | None:
        """DeLong's comparison of areas under the ROC curve."""
        import numpy as np

        from evergreen.statistics import areas_under_curve

        if min(labels.sum(), len(labels) - labels.sum()) < 2:
            return None
        return areas_under_curve(labels, np.vstack([first, second])).difference(level=level)

    def draw(self, labels: Vector, scores: Vector, folder: Path) -> None:
        """Draw the ROC curve, if there is one."""
        from evergreen.training.plots import draw_roc

        if 0 < labels.sum() < len(labels):
            draw_roc(labels, scores, folder / "roc.png")


def _reached(called: Vector, hits: Vector, wanted: Vector) -> Vector:
    """Of every sample, the hits among the first `wanted` rows; within ties in proportion."""
    import numpy as np

    samples = np.arange(len(called))
    place = np.count_nonzero(called < wanted[:, None], axis=1)
    x, y = called[samples, place], hits[samples, place]
    before = samples, np.maximum(place - 1, 0)
    x0, y0 = (np.where(place > 0, each[before], 0.0) for each in (called, hits))
    share = (wanted - x0) / np.maximum(x - x0, 1)
    return np.asarray(y0 + share * (y - y0))


def _products(first: Vector, second: Vector) -> Vector:
    """Of two `[b, n]`, the inner product of each row, `[b]`."""
    import numpy as np

    return np.asarray(np.einsum("ij,ij->i", first, second))
