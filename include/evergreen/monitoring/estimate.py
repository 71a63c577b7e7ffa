"""Estimated performance: what scores are worth before their labels are known.

A calibrated score says by itself how often it will be right, so the metrics of scores without
labels can be expected (confidence-based: `cbpe`). Where the population has moved since scores were
last held against labels, what they mean is learned again on labelled rows, weighted by how much
they resemble tonight's (`pape`; Bialek et al. 2024, arXiv 2401.08348).

Both take it that customers who look alike behave alike, as before. When habits change, labels alone
can tell, and an estimate is not to be believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import expit

from evergreen.decisions.stored import Stored
from evergreen.targets import TargetModel
from evergreen.training.calibrate import log_odds

Vector = NDArray[np.float64]
Matrix = NDArray[np.float32]
Method = Literal["cbpe", "pape"]

ESTIMATES = pa.schema(
    [
        ("day", pa.date32()),
        ("model_version", pa.int64()),
        ("method", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("lower", pa.float64()),
        ("upper", pa.float64()),
        ("rows", pa.int64()),
        ("reference_rows", pa.int64()),
        ("reason", pa.string()),
    ]
)
"""Arrow schema of the table `estimates`: one row per night, method and metric."""

_LEVEL = 0.95
# Sets of labels that are drawn; as many calibrations are fitted.
_DRAWS = 100
_FEWEST_ROWS = 200
# Of the odds that a row is tonight's, to either side: one row must not speak for many.
_MOST_ODDS = 20.0
_STEPS = 25


@dataclass(frozen=True)
class Estimate(Stored):
    """One metric of one night's scores, as it will turn out.

    Parameters
    ----------
    value, lower, upper
        Mean, and bounds at 95 %, of what labels yet to come may show; None where a metric does not
        exist.
    rows, reference_rows
        Scores, and labelled rows of before that their meaning was learned on.
    """

    method: Method
    metric: str
    value: float | None
    lower: float | None
    upper: float | None
    rows: int
    reference_rows: int
    reason: str = ""


def estimate_performance(
    target: TargetModel,
    tonight: tuple[Matrix, Vector],
    labelled: Sequence[tuple[Matrix, Vector, Vector]],
    *,
    seed: int,
    threads: int,
) -> list[Estimate]:
    """Estimate the target's metrics of scores whose labels are not known.

    Parameters
    ----------
    target
        One whose score is a probability.
    tonight
        What the model reads, `[n, k]` with NaN where nothing is known, and its scores, `[n]`.
    labelled
        The same, and labels of 0 and 1, of days of before.

    Returns
    -------
    list of Estimate
        By method and metric; of `pape` none with fewer than 200 labelled rows or one class only.
    """
    features, scores = tonight
    random = np.random.default_rng(seed)
    found = [*_expect(target, "cbpe", np.tile(scores, (_DRAWS, 1)), scores, 0, random)]
    reference = [np.concatenate(parts) for parts in zip(*labelled, strict=True)]
    if reference:
        known, known_scores, labels = reference
        if len(labels) >= _FEWEST_ROWS and 0 < labels.sum() < len(labels):
            weights = _resemblance(features, known, seed, threads)
            of_known, of_tonight = log_odds(known_scores), log_odds(scores)
            meanings = np.stack(
                [
                    _recalibrated(of_known, labels, weights * drawn, of_tonight)
                    for drawn in random.poisson(1.0, (_DRAWS, len(labels)))
                ]
            )
            found += _expect(target, "pape", meanings, scores, len(labels), random)
    return found


def estimates_table(day: date, model_version: int, rows: Sequence[Estimate]) -> pa.Table:
    """Return a night's rows with the schema `ESTIMATES`."""
    head = {"day": day, "model_version": model_version}
    return pa.Table.from_pylist([head | asdict(row) for row in rows], schema=ESTIMATES)


def _expect(
    target: TargetModel,
    method: Method,
    chances: Vector,
    scores: Vector,
    reference_rows: int,
    random: np.random.Generator,
) -> Iterator[Estimate]:
    """Draw labels by the chance of each row, `[b, n]`, and measure the scores by each set."""
    # NumPy's, of a seed: chances are to be drawn again the same.
    drawn = (random.random(chances.shape) < chances).astype(np.float64)  # nosec B311
    measured = [
        target.measure(labels, scores) | {"mean_label": float(labels.mean())} for labels in drawn
    ]
    tail = (1 - _LEVEL) / 2
    for metric in (*target.metrics, "mean_label"):
        values = np.array([one[metric] for one in measured if metric in one])
        known = len(values) == len(measured)
        lower, upper = np.quantile(values, [tail, 1 - tail]) if known else (None, None)
        yield Estimate(
            method=method,
            metric=metric,
            value=float(values.mean()) if known else None,
            lower=lower,
            upper=upper,
            rows=len(scores),
            reference_rows=reference_rows,
            reason="holds while customers who look alike behave alike, as before; labels will tell",
        )


def _resemblance(tonight: Matrix, known: Matrix, seed: int, threads: int) -> Vector:
    """Return how much more often than before each known row would be met tonight, mean 1."""
    import xgboost as xgb

    is_tonight = np.repeat([1.0, 0.0], [len(tonight), len(known)])
    rows = xgb.QuantileDMatrix(np.concatenate([tonight, known]), label=is_tonight, nthread=threads)
    booster = xgb.train(
        {
            "objective": "binary:logistic",
            "max_depth": 3,
            "eta": 0.1,
            "min_child_weight": 20.0,
            "seed": seed,
            "nthread": threads,
        },
        rows,
        num_boost_round=30,
    )
    chance = booster.predict(xgb.DMatrix(known, nthread=threads)).astype(np.float64)
    odds = np.clip(chance / (1 - chance), 1 / _MOST_ODDS, _MOST_ODDS)
    return np.asarray(odds / odds.mean())


def _recalibrated(odds: Vector, labels: Vector, weights: Vector, wanted: Vector) -> Vector:
    """Return what scores mean by weighted labelled rows: a line in log-odds, by Newton's steps."""
    line = np.array([0.0, 1.0])
    for _ in range(_STEPS):
        chance = expit(line[0] + line[1] * odds)
        rest, bend = weights * (labels - chance), weights * chance * (1 - chance)
        slope = np.array([rest.sum(), rest @ odds])
        curve = np.array([[bend.sum(), bend @ odds], [bend @ odds, bend @ odds**2]])
        step = np.linalg.solve(curve + 1e-9 * np.eye(2), slope)
        line = line + step
        if np.abs(step).max() < 1e-8:
            break
    return np.asarray(expit(line[0] + line[1] * wanted))
