"""What a score means: learned where scores met outcomes that the model had not seen."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from evergreen.decisions.stored import Stored

Vector = NDArray[np.float64]

Kind = Literal["identity", "platt", "isotonic", "venn_abers"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Log loss punishes certainty without end; no calibration may be more certain than this.
_CERTAIN = 1e-6
_LEAST_DAYS = 2
# Knots of a curve that is kept in the model file.
_KNOTS = 256


@dataclass(frozen=True)
class Calibration(Stored):
    """A monotone map from a model's probabilities to calibrated ones.

    Parameters
    ----------
    kind
        `platt`: logistic regression on the log-odds; `isotonic`; `venn_abers`: both its
        probabilities merged into one (Vovk & Petej 2014); or `identity`.
    slope, intercept
        Of `platt`, in log-odds.
    knots, values
        Of the curves: probability before and after, both ascending; straight lines between them
        keep the order of unequal scores wherever the curve is not flat.
    """

    kind: Kind = "identity"
    slope: float = 1.0
    intercept: float = 0.0
    knots: tuple[float, ...] = ()
    values: tuple[float, ...] = ()

    def apply(self, scores: Vector) -> Vector:
        """Calibrate probabilities, `[n]`."""
        if self.kind == "identity":
            return scores
        if self.kind == "platt":
            return np.asarray(expit(self.slope * log_odds(scores) + self.intercept))
        return np.interp(scores, self.knots, self.values)


def calibrate(kind: Kind, labels: Vector, scores: Vector) -> Calibration:
    """Fit one kind of calibration to scores of rows the model has not seen.

    Parameters
    ----------
    labels
        0 or 1, both present.
    scores
        Probabilities, `[n]`.
    """
    return _FITTERS[kind](labels, scores)


def choose_kind(days: Sequence[tuple[Vector, Vector]]) -> tuple[Kind, dict[str, float]]:
    """Choose the kind of calibration that holds over time.

    Each kind is fitted to the days before and held against each later day, as it will be used: in
    many businesses what a score means moves with the season, and a calibration that only learned
    last season's is worse than none. A kind is chosen if it has less log loss than `identity` on
    every later day; of several, that with the least.

    Parameters
    ----------
    days
        Labels and scores of test days, oldest first, each by a model that had not seen it.

    Returns
    -------
    tuple
        The kind, and the mean log loss, in nats, over the later days by kind; `identity` and
        nothing where there are fewer than two days.
    """
    from sklearn.metrics import log_loss

    if len(days) < _LEAST_DAYS:
        return "identity", {}
    losses: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    for number in range(1, len(days)):
        labels, scores = days[number]
        for kind in KINDS:
            calibrated = calibrate(kind, *pool(days[:number])).apply(scores)
            losses[kind].append(float(log_loss(labels, calibrated, labels=[0.0, 1.0])))
    plain = losses["identity"]
    lasting = [k for k in KINDS if all(a < b for a, b in zip(losses[k], plain, strict=True))]
    means = {kind: float(np.mean(found)) for kind, found in losses.items()}
    best = min(lasting, key=means.__getitem__, default=KINDS[0])
    return best, {str(kind): mean for kind, mean in means.items()}


def pool(days: Sequence[tuple[Vector, Vector]]) -> tuple[Vector, Vector]:
    """Join labels and scores of days."""
    labels, scores = zip(*days, strict=True)
    return np.concatenate(labels), np.concatenate(scores)


def _identity(labels: Vector, scores: Vector) -> Calibration:
    return Calibration()


def _platt(labels: Vector, scores: Vector) -> Calibration:
    from sklearn.linear_model import LogisticRegression

    # The targets of Platt (1999): with few rows, outcomes are not as certain as they look.
    positives = labels.sum()
    high, low = (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2)
    odds = log_odds(scores).reshape(-1, 1)
    weights = np.where(labels == 1, [[high], [1 - high]], [[low], [1 - low]])
    fitted = LogisticRegression(C=np.inf).fit(
        np.vstack([odds, odds]), np.repeat([1, 0], len(labels)), sample_weight=weights.ravel()
    )
    slope = float(fitted.coef_[0, 0])
    # Days on which high scores happened less are of another world; nothing is turned upside down.
    return Calibration("platt", slope, float(fitted.intercept_[0])) if slope > 0 else Calibration()


def _isotonic(labels: Vector, scores: Vector) -> Calibration:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=_CERTAIN, y_max=1 - _CERTAIN).fit(scores, labels)
    return _curve("isotonic", fitted.X_thresholds_, fitted.y_thresholds_)


def _venn_abers(labels: Vector, scores: Vector) -> Calibration:
    # It switches numpy's warnings off for everybody when it is imported.
    with np.errstate():
        from venn_abers import VennAbers
    model: Any = VennAbers()
    knots = np.unique(np.quantile(scores, np.linspace(0, 1, _KNOTS), method="nearest"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        # Rounding bounds what is quadratic in the number of different scores.
        model.fit(np.column_stack([1 - scores, scores]), labels, precision=4)
        merged, _ = model.predict_proba(np.column_stack([1 - knots, knots]))
    return _curve("venn_abers", knots, np.maximum.accumulate(merged[:, 1]))


def _curve(kind: Kind, knots: Vector, values: Vector) -> Calibration:
    kept = np.clip(values, _CERTAIN, 1 - _CERTAIN)
    return Calibration(kind, knots=tuple(map(float, knots)), values=tuple(map(float, kept)))


def log_odds(scores: Vector) -> Vector:
    """Return the log-odds of probabilities, `[n]`; those of 0 and 1 are cut off."""
    return np.asarray(logit(np.clip(scores, _CERTAIN, 1 - _CERTAIN)))


_FITTERS: dict[Kind, Callable[[Vector, Vector], Calibration]] = {
    "identity": _identity,
    "platt": _platt,
    "isotonic": _isotonic,
    "venn_abers": _venn_abers,
}
