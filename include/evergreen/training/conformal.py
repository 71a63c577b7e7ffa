"""How far outcomes lie from what was predicted: learned where both met on rows not seen before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evergreen.decisions.stored import Stored

if TYPE_CHECKING:
    from evergreen.targets import TargetModel

Vector = NDArray[np.float64]

LOWER, UPPER = "lower", "upper"

TAG = "interval"
"""Of a version: the level of its intervals."""


@dataclass(frozen=True)
class Interval(Stored):
    """What makes a prediction an interval that holds the outcome as often as promised.

    Parameters
    ----------
    level
        Share of outcomes that were to be held.
    quantile
        By how many units the ends of a prediction are moved apart; see `TargetModel.ends`.
    """

    level: float
    quantile: float

    @property
    def tags(self) -> dict[str, str]:
        """What a version with such intervals is tagged with."""
        return {TAG: f"{self.level:g}"}

    def apply(self, columns: Mapping[str, Vector], target: TargetModel) -> dict[str, Vector]:
        """Return `lower` and `upper`, `[n]`, of predicted columns; the score lies between them.

        Ends that no outcome or score lies beyond are cut off, which takes no outcome out.
        """
        low, high, unit = target.ends(columns)
        least, greatest = target.score_range
        score, reach = columns["score"], self.quantile * unit
        lower = np.maximum(low - reach, -math.inf if least is None else least)
        upper = np.minimum(high + reach, math.inf if greatest is None else greatest)
        return {LOWER: np.minimum(lower, score), UPPER: np.maximum(upper, score)}


def learn_interval(
    target: TargetModel, days: Sequence[tuple[Vector, Mapping[str, Vector]]]
) -> Interval | None:
    """Learn by split conformal prediction how wide intervals must be.

    Of a mean the conformity score is the Pearson residual: the distance of outcome and mean over
    the standard deviation that the declared distribution gives to that mean. So intervals are as
    wide for many and few as the distribution says, and one number sets them right. Quantiles are
    conformalised: the distance to the nearer end, negative between both.

    Parameters
    ----------
    days
        Labels and predicted columns of test days, each by a model that had not seen it. All of
        them are pooled: what differs between days is the season, and many days have seen more of it
        than the newest.

    Returns
    -------
    Interval or None
        None where the target asks for none, or there are too few rows to learn from.

    Notes
    -----
    Lei et al. (2018), with the residuals of McCullagh & Nelder (1989); Romano et al. (2019). The
    promise is kept for rows like those it was learned on. Later days are not quite alike, which is
    why coverage is measured on the holdout.
    """
    level = target.level
    if level is None or not days:
        return None
    labels = np.concatenate([labels for labels, _ in days])
    # Of too few rows none lies as far out as the level asks.
    if target.too_few(target.count(labels)) or len(labels) < max(1 / level, 1 / (1 - level)):
        return None
    ends = [target.ends(columns) for _, columns in days]
    low, high, unit = (np.concatenate(parts) for parts in zip(*ends, strict=True))
    return Interval(level, _quantile(labels, low, high, unit, level))


def _quantile(labels: Vector, low: Vector, high: Vector, unit: Vector, level: float) -> float:
    from mapie.conformity_scores import ResidualNormalisedScore
    from mapie.regression import ConformalizedQuantileRegressor, SplitConformalRegressor

    predicted = np.column_stack([low, high, unit])
    # The prediction whose ends are zero and whose unit is one: its interval is the quantile.
    plain = np.array([[0.0, 0.0, 1.0]])
    lows, highs, units = map(_Predicted, range(3))
    # Of a mean, whose ends are one.
    if np.array_equal(low, high):
        conformity = ResidualNormalisedScore(units, prefit=True)
        of_mean = SplitConformalRegressor(lows, level, conformity).conformalize(predicted, labels)
        _, interval = of_mean.predict_interval(plain)
    else:
        of_quantiles = ConformalizedQuantileRegressor([lows, highs, lows], level, prefit=True)
        of_quantiles.conformalize(predicted, labels)
        _, interval = of_quantiles.predict_interval(plain, symmetric_correction=True)
    return float(interval[0, 1, 0])


@dataclass(frozen=True)
class _Predicted:
    """A fitted model, as MAPIE asks for it: what it predicts was predicted before, in a column."""

    column: int
    n_features_in_: int = 3

    def fit(self, *_: Any) -> _Predicted:
        return self

    def predict(self, predicted: Vector) -> Vector:
        return predicted[:, self.column]
