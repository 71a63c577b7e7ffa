"""Means of rows, and what they would scatter by: several of one customer say less than as many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def clustered_mean(values: Vector, clusters: NDArray[np.intp]) -> tuple[float, float]:
    """Mean and its standard error when rows of one cluster move together, and clusters do not.

    Parameters
    ----------
    values
        `[n]`.
    clusters
        Number of each row's cluster, `[n]`, from 0.

    Notes
    -----
    The sandwich of Liang & Zeger (1986) without small-sample correction.
    """
    mean = float(values.mean())
    totals = np.bincount(clusters, weights=values - mean)
    return mean, float(np.sqrt((totals**2).sum()) / len(values))


def ratio(top: Vector, of: Vector) -> tuple[float, float]:
    """One sum over another of the same independent rows, and its standard error.

    Parameters
    ----------
    top, of
        `[n]`; `of` does not sum to zero.

    Notes
    -----
    Linearised (the delta method).
    """
    whole = float(of.sum())
    value = float(top.sum()) / whole
    return value, float(np.sqrt(((top - value * of) ** 2).sum())) / whole
