"""How good a model is on days it has never seen."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import xgboost as xgb
from numpy.typing import NDArray

from evergreen.targets import TargetModel
from evergreen.training.fit import predict
from evergreen.training.frame import LabelledSplit
from evergreen.training.inputs import Inputs

Vector = NDArray[Any]


@dataclass(frozen=True)
class CalibrationBin:
    """One bin of equally many rows: what was predicted, and what happened."""

    rows: int
    mean_score: float
    mean_label: float


@dataclass(frozen=True)
class Evaluation:
    """Measurements of one model on one holdout.

    Parameters
    ----------
    metrics
        Of the target, by name.
    counts
        Rows of the holdout, and what else the target counts.
    mean_score, mean_label
        What was predicted and what happened, on average.
    latency_ms_per_1k
        Milliseconds to prepare and score 1,000 rows, median of several repetitions.
    calibration
        Up to ten bins by ascending score.
    """

    metrics: Mapping[str, float]
    counts: Mapping[str, int]
    mean_score: float
    mean_label: float
    latency_ms_per_1k: float
    calibration: tuple[CalibrationBin, ...]

    def numbers(self) -> dict[str, float]:
        """Everything that is one number, by name."""
        return {
            **self.metrics,
            **{name: float(count) for name, count in self.counts.items()},
            "mean_score": self.mean_score,
            "mean_label": self.mean_label,
            "latency_ms_per_1k": self.latency_ms_per_1k,
        }


def evaluate(
    booster: xgb.Booster, split: LabelledSplit, target: TargetModel, *, threads: int
) -> Evaluation:
    """Measure a model on the holdout of the split it was fitted on; nothing else is read."""
    labels = split.holdout.labels
    scores = predict(booster, split.holdout.matrix, target, threads=threads)["score"]
    return Evaluation(
        metrics=target.measure(labels, scores),
        counts=target.count(labels),
        mean_score=float(scores.mean()),
        mean_label=float(labels.mean()),
        latency_ms_per_1k=measure_latency(
            booster, split.inputs, split.holdout_features, target, threads=threads
        ),
        calibration=calibration_table(labels, scores),
    )


def measure_latency(
    booster: xgb.Booster,
    inputs: Inputs,
    features: pa.Table,
    target: TargetModel,
    *,
    threads: int,
    repetitions: int = 5,
) -> float:
    """Milliseconds to prepare and score 1,000 rows, from table to scores, at the median.

    Small holdouts are measured as they are, so they carry the fixed cost of a call: that errs on
    the strict side. At most 20,000 rows are used.
    """
    sample = features.slice(0, 20_000)
    seconds = []
    for _ in range(repetitions):
        begun = time.perf_counter()
        predict(booster, inputs.prepare(sample), target, threads=threads)
        seconds.append(time.perf_counter() - begun)
    return float(statistics.median(seconds) * 1e6 / sample.num_rows)


def calibration_table(labels: Vector, scores: Vector, bins: int = 10) -> tuple[CalibrationBin, ...]:
    """Predicted against observed, in bins of equally many rows by ascending score.

    Ties may fall into two bins; with fewer rows than bins there is one bin per row.
    """
    order = np.argsort(scores, kind="stable")
    return tuple(
        CalibrationBin(
            rows=len(part),
            mean_score=float(np.mean(scores[part])),
            mean_label=float(np.mean(labels[part])),
        )
        for part in np.array_split(order, bins)
        if len(part)
    )
