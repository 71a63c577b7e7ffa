"""Areas under ROC curves of several models on the same rows, and how far chance moves them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Areas:
    """Area per model.

    Parameters
    ----------
    values
        `[m]`.
    covariance
        `[m, m]`, of their errors.
    """

    values: Vector
    covariance: Vector = field(repr=False)

    def difference(self, *, level: float) -> tuple[float, float, float, float]:
        """Estimate, bounds and standard error of the first model's area minus the second's."""
        estimate = float(self.values[0] - self.values[1])
        contrast = np.array([1.0, -1.0])
        # Rounding may leave the variance of equal models below zero.
        error = float(np.sqrt(max(contrast @ self.covariance[:2, :2] @ contrast, 0.0)))
        reach = float(stats.norm.ppf((1 + level) / 2)) * error
        return estimate, estimate - reach, estimate + reach, error


def areas_under_curve(labels: Vector, scores: Vector) -> Areas:
    """Measure the areas of `m` models at once.

    Parameters
    ----------
    labels
        0 or 1, `[n]`, at least two of each.
    scores
        `[m, n]`; ties count half.

    Notes
    -----
    DeLong, DeLong & Clarke-Pearson (1988) by the midranks of Sun & Xu (2014): `O(m n log n)`.
    """
    positive = labels == 1
    ranks = stats.rankdata(scores, axis=1)
    # Of each row, the share of the other class that it is ranked rightly against.
    hits = _others_below(ranks, scores, positive)
    misses = _others_below(ranks, scores, ~positive)
    covariance = np.cov(hits) / hits.shape[1] + np.cov(misses) / misses.shape[1]
    return Areas(hits.mean(axis=1), np.atleast_2d(covariance))


def _others_below(ranks: Vector, scores: Vector, chosen: NDArray[np.bool_]) -> Vector:
    """Of each chosen row, the share of the others that lie below it, `[m, chosen]`."""
    within = stats.rankdata(scores[:, chosen], axis=1)
    shares: Vector = (ranks[:, chosen] - within) / np.count_nonzero(~chosen)
    return shares
