"""The bootstrap: how a metric would scatter if other rows of the same kind had been measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Vector = NDArray[np.float64]
Weights = NDArray[np.uint8]

Metrics = Callable[[Weights], Mapping[str, Vector]]
"""From weights `[b, n]` of the rows to each metric's value under each of the `b`."""

# How often a row is drawn, Poisson with mean 1, by 16 random bits: as fast as the bits come, and
# off by 1.5e-5 in probability at most.
_DRAWS: Weights = np.searchsorted(
    stats.poisson.cdf(np.arange(9), 1), (np.arange(2**16) + 0.5) / 2**16
).astype(np.uint8)

# Weights that are held at a time.
_CELLS = 2**24


def resample(metrics: Metrics, rows: int, *, resamples: int, seed: int) -> dict[str, Vector]:
    """Compute metrics under weights that stand for other samples of as many rows.

    Parameters
    ----------
    metrics
        Called with uint8 `[b, rows]` for a few resamples at a time. Metrics of the same call share
        their weights, which is what makes their differences paired.
    rows
        Number of independent rows.
    resamples
        Number of samples.
    seed
        The same seed gives the same weights.

    Returns
    -------
    dict of numpy.ndarray
        float64 `[resamples]` per metric, NaN where a sample lacks what the metric needs.

    Notes
    -----
    Each row is drawn a Poisson number of times instead of fixing the total (Chamandy et al. 2012):
    no row depends on another, so blocks bound the memory.
    """
    random = np.random.default_rng(seed)
    found: dict[str, list[Vector]] = {}
    block = max(1, min(resamples, _CELLS // max(rows, 1)))
    for start in range(0, resamples, block):
        shape = (min(block, resamples - start), rows)
        weights = _DRAWS[random.integers(0, 2**16, shape, dtype=np.uint16)]
        for name, values in metrics(weights).items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in found.items()}


def once(metrics: Metrics, rows: int) -> dict[str, float]:
    """Compute metrics of the rows as they are; those that do not exist are absent."""
    if not rows:
        return {}
    found = metrics(np.ones((1, rows), dtype=np.uint8))
    return {name: float(value) for name, (value,) in found.items() if np.isfinite(value)}


def interval(samples: Vector, *, level: float) -> tuple[float, float]:
    """Central percentile interval of resampled values; NaN are left out.

    Parameters
    ----------
    level
        Share of other samples whose value it should cover, e.g. 0.95.
    """
    tail = (1 - level) / 2
    low, high = np.nanquantile(samples, [tail, 1 - tail])
    return float(low), float(high)
