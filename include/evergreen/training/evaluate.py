"""How good a model is on days it has never seen."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import xgboost as xgb
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from evergreen.contract import UseCase
from evergreen.errors import NotReadyError, ValidationError
from evergreen.training.fit import predict
from evergreen.training.frame import LabelledFrame, prepare

Vector = np.ndarray[Any, Any]


@dataclass(frozen=True)
class CalibrationBin:
    """One bin of equally many rows: what was predicted, and what happened."""

    rows: int
    mean_score: float
    observed_rate: float


@dataclass(frozen=True)
class Evaluation:
    """Measurements of one model on one holdout.

    Parameters
    ----------
    auc, logloss, brier
        Area under the ROC curve, mean log loss (nats), mean squared error of the probability.
    rows, positives
        Rows of the holdout, and how many of their labels are true.
    mean_score
        Mean predicted probability; compare with `positives / rows`.
    latency_ms_per_1k
        Milliseconds to prepare and score 1,000 rows, median of several repetitions.
    oracle_auc
        AUC of the true probabilities where the source can tell them: what the best possible
        model would reach. None elsewhere.
    calibration
        Up to ten bins by ascending score.
    """

    auc: float
    logloss: float
    brier: float
    rows: int
    positives: int
    mean_score: float
    latency_ms_per_1k: float
    oracle_auc: float | None
    calibration: tuple[CalibrationBin, ...]

    def metrics(self) -> dict[str, float]:
        """Everything that is one number, by name."""
        numbers = {
            "auc": self.auc,
            "logloss": self.logloss,
            "brier": self.brier,
            "rows": self.rows,
            "positives": self.positives,
            "mean_score": self.mean_score,
            "latency_ms_per_1k": self.latency_ms_per_1k,
        }
        if self.oracle_auc is not None:
            numbers["oracle_auc"] = self.oracle_auc
        return {name: float(value) for name, value in numbers.items()}


def evaluate(
    booster: xgb.Booster,
    holdout: LabelledFrame,
    use_case: UseCase,
    *,
    threads: int,
    oracle: pa.Table | None = None,
) -> Evaluation:
    """Measure a model on the holdout.

    Parameters
    ----------
    booster
        Any booster that reads the holdout's features, in their order.
    holdout
        Labelled rows. Not modified.
    use_case
        Names the entity key of the oracle.
    threads
        Threads of the prediction.
    oracle
        True probabilities of the label: the entity key and `probability` (float64), for at least
        the entities of the holdout, which must be one day.

    Raises
    ------
    NotReadyError
        The holdout holds one class only, or is empty.
    ValidationError
        The oracle lacks an entity of the holdout.
    """
    scores = predict(booster, holdout.matrix, threads=threads)
    oracle_auc = None
    if oracle is not None:
        oracle_auc = measure_auc(holdout.target, _aligned(oracle, holdout, use_case.entity.key))
    return Evaluation(
        auc=measure_auc(holdout.target, scores),
        logloss=measure_logloss(holdout.target, scores),
        brier=float(brier_score_loss(holdout.target, scores)),
        rows=holdout.rows,
        positives=holdout.positives,
        mean_score=float(scores.mean()),
        latency_ms_per_1k=measure_latency(booster, holdout, threads=threads),
        oracle_auc=oracle_auc,
        calibration=calibration_table(holdout.target, scores),
    )


def measure_auc(target: Vector, scores: Vector) -> float:
    """Area under the ROC curve.

    Raises
    ------
    NotReadyError
        The target holds one class only; its AUC does not exist.
    """
    positives = int(np.sum(target))
    if positives in (0, len(target)):
        raise NotReadyError(
            f"AUC needs both classes; found {positives} true labels in {len(target)} rows. "
            "Check labels.sql and the horizon, or choose a day with both outcomes."
        )
    return float(roc_auc_score(target, scores))


def measure_logloss(target: Vector, scores: Vector) -> float:
    """Mean negative log likelihood, in nats."""
    return float(log_loss(target, scores, labels=[0.0, 1.0]))


def measure_latency(
    booster: xgb.Booster, holdout: LabelledFrame, *, threads: int, repetitions: int = 5
) -> float:
    """Milliseconds to prepare and score 1,000 rows, from table to probabilities, at the median.

    Small holdouts are measured as they are, so they carry the fixed cost of a call: that errs on
    the strict side. At most 20,000 rows are used.
    """
    sample = holdout.matrix[:20_000]
    columns = {
        name: pa.array(sample[:, index], from_pandas=True)
        for index, name in enumerate(holdout.feature_names)
    }
    features = pa.table(columns)
    seconds = []
    for _ in range(repetitions):
        begun = time.perf_counter()
        predict(booster, prepare(features, holdout.feature_names), threads=threads)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds) * 1e3 / (len(sample) / 1e3)


def calibration_table(target: Vector, scores: Vector, bins: int = 10) -> tuple[CalibrationBin, ...]:
    """Predicted against observed, in bins of equally many rows by ascending score.

    Ties may fall into two bins; with fewer rows than bins there is one bin per row.
    """
    order = np.argsort(scores, kind="stable")
    return tuple(
        CalibrationBin(
            rows=len(part),
            mean_score=float(np.mean(scores[part])),
            observed_rate=float(np.mean(target[part])),
        )
        for part in np.array_split(order, bins)
        if len(part)
    )


def _aligned(oracle: pa.Table, holdout: LabelledFrame, key: str) -> Vector:
    truth = dict(
        zip(oracle.column(key).to_pylist(), oracle.column("probability").to_pylist(), strict=True)
    )
    keys = holdout.keys.to_pylist()
    unknown = [name for name in keys if name not in truth]
    if unknown:
        raise ValidationError(
            f"The oracle lacks {len(unknown)} of {len(keys)} entities of the holdout, e.g. "
            f"{unknown[0]!r}; expected all. Ask it for the holdout's as-of."
        )
    return np.array([truth[name] for name in keys], dtype=np.float64)
