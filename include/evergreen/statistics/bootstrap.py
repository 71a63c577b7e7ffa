"""The bootstrap: how a metric would scatter if other rows of the same kind had been measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Vector = NDArray[np.float64]
Rows = NDArray[np.intp]
Weights = NDArray[np.uint16]

Metrics = Callable[[Weights], Mapping[str, Vector]]
"""From weights `[b, n]` of rows to each metric's value under each of the `b`."""

Measure = Callable[[Rows], Metrics]
"""From the places of some rows, ascending, to the metrics of these rows."""

# Above twice as many rows, parts of so many stand for all; and how many such parts, at most.
_PART = 20_000
_PARTS = 20

# Weights that are held at a time: they stay in the processor's cache.
_CELLS = 2**16


def resample(measure: Measure, rows: int, *, resamples: int, seed: int) -> dict[str, Vector]:
    """Compute metrics under weights that stand for other samples of as many rows.

    Parameters
    ----------
    measure
        Metrics of the same call share their weights, which is what makes their differences paired.
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
    no row depends on another, so blocks bound the memory. Of more than 40,000 rows, up to twenty
    parts of 20,000 are each drawn up to the number of all, and what they say is moved to the value
    of all rows (the bag of little bootstraps, Kleiner et al. 2014): the cost of a sample does not
    grow with the rows.
    """
    random = np.random.default_rng(seed)
    parts = _divide(rows, random)
    whole = once(measure, rows) if len(parts) > 1 else {}
    found: dict[str, list[Vector]] = {}
    for number, part in enumerate(parts):
        metrics, draws = measure(part), _draws(rows / max(len(part), 1))
        wanted = len(range(number, resamples, len(parts)))
        block = max(1, min(wanted, _CELLS // max(len(part), 1)))
        usual = metrics(np.ones((1, len(part)), np.uint16)) if len(parts) > 1 else {}
        for start in range(0, wanted, block):
            shape = (min(block, wanted - start), len(part))
            weights = draws[random.integers(0, 2**16, shape, dtype=np.uint16)]
            for name, values in metrics(weights).items():
                moved = values + (whole.get(name, np.nan) - usual[name][0]) if usual else values
                found.setdefault(name, []).append(moved)
    return {name: np.concatenate(values) for name, values in found.items()}


def of_rows(metrics: Callable[..., Metrics], *columns: Vector) -> Measure:
    """Prepare metrics of columns, `[n]` each, so that they can be measured on some of the rows."""
    return lambda part: metrics(*(column[part] for column in columns))


def weigh(drawn: Vector, values: Vector) -> Vector:
    """Sum values `[n]` under weights `[b, n]`: `drawn @ values`, `[b]`.

    Without BLAS, whose threads wait for each other on a busy machine.
    """
    return np.asarray(np.einsum("ij,j->i", drawn, values))


def once(measure: Measure, rows: int) -> dict[str, float]:
    """Compute metrics of the rows as they are; those that do not exist are absent."""
    if not rows:
        return {}
    found = measure(np.arange(rows))(np.ones((1, rows), np.uint16))
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


def _divide(rows: int, random: np.random.Generator) -> list[Rows]:
    """Give all rows, or distinct parts of them if they are many."""
    if rows < 2 * _PART:
        return [np.arange(rows)]
    chosen = random.permutation(rows)[: _PART * min(rows // _PART, _PARTS)]
    return [np.sort(part) for part in chosen.reshape(-1, _PART)]


@cache
def _draws(mean: float) -> Weights:
    """How often a row is drawn, Poisson with this mean, by 16 random bits: as fast as they come.

    Off by 1.5e-5 in probability at most.
    """
    most = stats.poisson.ppf(1 - 2**-17, mean)
    chances = stats.poisson.cdf(np.arange(most + 1), mean)
    return np.searchsorted(chances, (np.arange(2**16) + 0.5) / 2**16).astype(np.uint16)
