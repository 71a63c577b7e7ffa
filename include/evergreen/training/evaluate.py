"""How good a model is on a day it has never seen, and how sure that is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evergreen.decisions.gate import Difference
from evergreen.statistics import Metrics, Weights, interval, of_rows, once, resample
from evergreen.targets import TargetModel
from evergreen.training.conformal import LOWER, UPPER
from evergreen.training.fit import Fitter
from evergreen.training.frame import LABEL, LabelledRows
from evergreen.training.model import Model
from evergreen.training.split import SplitPlan

Vector = NDArray[Any]

LEVEL = 0.95
"""Of every interval."""

RESAMPLES = 1_000


@dataclass(frozen=True)
class CalibrationBin:
    """One bin of equally many rows: what was predicted, and what happened."""

    rows: int
    mean_score: float
    mean_label: float


@dataclass(frozen=True)
class Holdout:
    """A day on which nothing was chosen.

    Parameters
    ----------
    labels
        What happened, `[n]`.
    features
        As they were computed, row by row: every model prepares them itself.
    seed
        Of the resampling.
    """

    labels: Vector
    features: pa.Table
    target: TargetModel
    threads: int
    seed: int

    @classmethod
    def of(cls, rows: LabelledRows, plan: SplitPlan, fitter: Fitter) -> Self:
        """Take the holdout of a plan."""
        held_out, use_case = rows.of([plan.holdout]), fitter.use_case
        return cls(
            use_case.target.read_labels(held_out[LABEL]),
            held_out.select(use_case.feature_names),
            use_case.target,
            fitter.threads,
            fitter.seed,
        )

    def predict(self, model: Model) -> dict[str, Vector]:
        """Predict the columns that are published, by a model."""
        matrix = model.inputs.prepare(self.features)
        return model.predict(matrix, self.target, threads=self.threads)

    def score(self, model: Model) -> Vector:
        """Score everybody by a model."""
        return score_features(model, self.features, self.target, self.threads)

    def compare(self, first: Vector, second: Vector, **options: Any) -> dict[str, Difference]:
        """Compare two scores: first minus second, per metric; see `compare`."""
        return compare(self.target, self.labels, first, second, seed=self.seed, **options)


def score_features(model: Model, features: pa.Table, target: TargetModel, threads: int) -> Vector:
    """Score rows of features, `[n]`."""
    return model.predict(model.inputs.prepare(features), target, threads=threads)["score"]


def compare(
    target: TargetModel,
    labels: Vector,
    first: Vector,
    second: Vector,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, Difference]:
    """Compare two scores of the same rows: first minus second, per metric that exists.

    By the paired bootstrap: both are measured on the same samples. The main metric of a target
    that knows better (DeLong's, for areas under the ROC curve) is compared its way.
    """

    def differences(labels: Vector, first: Vector, second: Vector) -> Metrics:
        ours, theirs = target.resampled(labels, first), target.resampled(labels, second)

        def metrics(weights: Weights) -> Mapping[str, Vector]:
            other = theirs(weights)
            return {name: values - other[name] for name, values in ours(weights).items()}

        return metrics

    measure = of_rows(differences, labels, first, second)
    samples = resample(measure, len(labels), resamples=resamples, seed=seed)
    found = {
        name: Difference(
            value, *interval(samples[name], level=level), float(np.nanstd(samples[name]))
        )
        for name, value in once(measure, len(labels)).items()
    }
    if exact := target.difference(labels, first, second, level=level):
        found[target.main_metric] = Difference(*exact)
    return found


@dataclass(frozen=True)
class Evaluation:
    """Measurements of one model on one holdout.

    Parameters
    ----------
    metrics, intervals
        Of the target, by name; bounds at 95 %.
    counts
        Rows of the holdout, and what else the target counts.
    mean_score, mean_label
        What was predicted and what happened, on average.
    latency_ms_per_1k
        Milliseconds of one core to prepare and score 1,000 rows.
    calibration
        Up to ten bins by ascending score.
    baselines
        Metrics, by baseline.
    over_baselines
        The model's main metric minus that of each baseline.
    """

    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    counts: Mapping[str, int]
    mean_score: float
    mean_label: float
    latency_ms_per_1k: float
    calibration: tuple[CalibrationBin, ...]
    baselines: Mapping[str, Mapping[str, float]]
    over_baselines: Mapping[str, Difference]

    def numbers(self) -> dict[str, float]:
        """Everything that is one number, by name."""
        return {
            **self.metrics,
            **{f"{name}_low": low for name, (low, _) in self.intervals.items()},
            **{f"{name}_high": high for name, (_, high) in self.intervals.items()},
            **{name: float(count) for name, count in self.counts.items()},
            "mean_score": self.mean_score,
            "mean_label": self.mean_label,
            "latency_ms_per_1k": self.latency_ms_per_1k,
        }


def evaluate(
    model: Model, scores: Vector, holdout: Holdout, baselines: Mapping[str, Vector]
) -> Evaluation:
    """Measure a model by its scores of the holdout, beside those of baselines."""
    target, labels = holdout.target, holdout.labels
    of_scores = of_rows(target.resampled, labels, scores)
    samples = resample(of_scores, len(labels), resamples=RESAMPLES, seed=holdout.seed)
    metrics = once(of_scores, len(labels))
    if target.level is not None and model.interval is not None:
        columns = holdout.predict(model)
        # Of the rows that the score is measured on, drawn as often: the seed is the same.
        held = of_rows(target.resampled_intervals, labels, columns[LOWER], columns[UPPER])
        samples |= resample(held, len(labels), resamples=RESAMPLES, seed=holdout.seed)
        metrics |= once(held, len(labels))
    main = target.main_metric
    over = {name: holdout.compare(scores, other) for name, other in baselines.items()}
    return Evaluation(
        metrics=metrics,
        intervals={name: interval(samples[name], level=LEVEL) for name in metrics},
        counts=target.count(labels),
        mean_score=float(scores.mean()),
        mean_label=float(labels.mean()),
        latency_ms_per_1k=measure_latency(model, holdout),
        calibration=calibration_table(labels, scores),
        baselines={name: target.measure(labels, other) for name, other in baselines.items()},
        over_baselines={name: found[main] for name, found in over.items() if main in found},
    )


def measure_latency(model: Model, holdout: Holdout, repetitions: int = 5) -> float:
    """Milliseconds of one core to prepare and score 1,000 rows, from table to scores; the median.

    Processor time, so that a machine that is busy with something else cannot refuse a model. Small
    holdouts are measured as they are, so they carry the fixed cost of a call: that errs on the
    strict side. At most 20,000 rows are used.
    """
    sample = holdout.features.slice(0, 20_000)
    seconds = []
    for _ in range(repetitions):
        begun = time.process_time()
        score_features(model, sample, holdout.target, 1)
        seconds.append(time.process_time() - begun)
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
