"""Realised performance: what past scores were worth, once their labels are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from evergreen.contract import Monitoring
from evergreen.decisions.stored import Stored
from evergreen.errors import NotReadyError, ValidationError

PERFORMANCE = pa.schema(
    [
        ("day", pa.date32()),
        ("model_version", pa.int64()),
        ("slice", pa.string()),
        ("rows", pa.int64()),
        ("unlabelled", pa.int64()),
        ("minority_rows", pa.int64()),
        ("base_rate", pa.float64()),
        ("mean_score", pa.float64()),
        ("auc", pa.float64()),
        ("logloss", pa.float64()),
        ("brier", pa.float64()),
        ("holdout_auc", pa.float64()),
        ("degraded", pa.bool_()),
        ("reason", pa.string()),
    ]
)
"""Arrow schema of the table `performance`: one row per scored day, model version and slice."""


@dataclass(frozen=True)
class PerformanceRow(Stored):
    """One slice of one scored day.

    Parameters
    ----------
    slice
        `all`, or `band=<name>`.
    rows, unlabelled
        Predictions with and without a label.
    minority_rows
        Labelled rows of the rarer class.
    base_rate, mean_score
        Observed share of positive labels, and mean score; None without rows.
    auc
        None where only one class was observed.
    holdout_auc
        What the same model reached on its holdout; None when not compared.
    """

    model_version: int
    slice: str
    rows: int
    unlabelled: int
    minority_rows: int
    base_rate: float | None
    mean_score: float | None
    auc: float | None
    logloss: float | None
    brier: float | None
    holdout_auc: float | None = None
    degraded: bool = False
    reason: str = ""


def realised_performance(
    predictions: pa.Table,
    labels: pa.Table,
    key: str,
    *,
    max_unlabelled_ratio: float = 0.01,
) -> list[PerformanceRow]:
    """Compare the scores of one day with the labels of the same day.

    Parameters
    ----------
    predictions
        `key`, `score` in [0, 1], `model_version` and, if there are bands, `band`; one row per
        key. Not modified.
    labels
        `key`, `label` (0 or 1, null while unknown); one row per key. More keys than predictions
        are fine: orders that arrived late brought new entities. Not modified.
    max_unlabelled_ratio
        Largest tolerable share of predictions without a label.

    Returns
    -------
    list of PerformanceRow
        Per model version: the slice `all`, then each band by name.

    Raises
    ------
    NotReadyError
        There are no predictions or no labels.
    ValidationError
        A key occurs twice, a label is neither 0 nor 1, a score is missing or outside [0, 1], or
        too many predictions have no label.
    """
    if predictions.num_rows == 0 or labels.num_rows == 0:
        raise NotReadyError(
            f"Found {predictions.num_rows} predictions and {labels.num_rows} labels; performance "
            "needs both. Score the day, and wait for its labels to mature."
        )
    for what, rows in (("predictions", predictions), ("labels", labels)):
        _require_unique(what, rows, key)
    wanted = [
        key,
        "score",
        "model_version",
        *(["band"] if "band" in predictions.schema.names else []),
    ]
    joined = predictions.select(wanted).join(
        labels.select([key, "label"]), keys=key, join_type="left outer"
    )
    if joined.num_rows != predictions.num_rows:
        raise ValidationError(
            f"{predictions.num_rows} predictions became {joined.num_rows} rows when joined with "
            "their labels; expected the same number."
        )
    unlabelled = joined["label"].null_count
    if unlabelled > max_unlabelled_ratio * joined.num_rows:
        raise ValidationError(
            f"{unlabelled} of {joined.num_rows} predictions have no label, expected at most "
            f"{max_unlabelled_ratio:.1%}. Compute the labels of this day again."
        )
    _require_values(joined)
    rows = []
    for version in sorted(joined["model_version"].unique().to_pylist()):
        of_version = joined.filter(pc.equal(joined["model_version"], version))
        rows.append(_row(version, "all", of_version))
        if "band" in joined.column_names:
            for band in sorted(of_version["band"].unique().drop_null().to_pylist()):
                part = of_version.filter(pc.equal(of_version["band"], band))
                rows.append(_row(version, f"band={band}", part))
    return rows


def judge_performance(
    rows: Sequence[PerformanceRow],
    holdout_auc: Mapping[int, float],
    monitoring: Monitoring,
    *,
    min_rows: int = 200,
    min_minority: int = 30,
) -> list[PerformanceRow]:
    """Mark the versions whose realised AUC fell too far below their own holdout AUC.

    Parameters
    ----------
    holdout_auc
        By model version; a version that is not in it is not judged.
    min_rows, min_minority
        Fewer labelled rows, or fewer of the rarer class, judge nothing.

    Returns
    -------
    list of PerformanceRow
        The rows, those of slice `all` judged. Bands are never judged by AUC: within a band the
        scores hardly differ.
    """
    return [
        _judge(row, holdout_auc.get(row.model_version), monitoring, min_rows, min_minority)
        if row.slice == "all"
        else row
        for row in rows
    ]


def performance_table(day: date, rows: Sequence[PerformanceRow]) -> pa.Table:
    """Return rows with the schema `PERFORMANCE`; `day` is the day that was scored."""
    return pa.Table.from_pylist([{"day": day} | asdict(row) for row in rows], schema=PERFORMANCE)


def _judge(
    row: PerformanceRow,
    holdout_auc: float | None,
    monitoring: Monitoring,
    min_rows: int,
    min_minority: int,
) -> PerformanceRow:
    if holdout_auc is None:
        return replace(row, reason=f"version {row.model_version} has no holdout AUC on record")
    if row.auc is None or row.rows < min_rows or row.minority_rows < min_minority:
        reason = (
            f"too little to judge: {row.rows} rows, {row.minority_rows} of the rarer class; "
            f"expected {min_rows} and {min_minority}"
        )
        return replace(row, holdout_auc=holdout_auc, reason=reason)
    least = holdout_auc - monitoring.max_auc_drop
    degraded = row.auc < least
    reason = (
        f"AUC {row.auc:.4f} {'is below' if degraded else 'reaches'} {least:.4f}, holdout AUC "
        f"{holdout_auc:.4f} less allowed drop {monitoring.max_auc_drop:g}"
    )
    return replace(row, holdout_auc=holdout_auc, degraded=degraded, reason=reason)


def _row(version: int, name: str, rows: pa.Table) -> PerformanceRow:
    labelled = rows.filter(pc.is_valid(rows["label"]))
    y: NDArray[np.float64] = labelled["label"].cast(pa.float64()).to_numpy()
    scores: NDArray[np.float64] = labelled["score"].cast(pa.float64()).to_numpy()
    positives = int(y.sum())
    both = 0 < positives < len(y)
    return PerformanceRow(
        model_version=version,
        slice=name,
        rows=len(y),
        unlabelled=rows.num_rows - len(y),
        minority_rows=min(positives, len(y) - positives),
        base_rate=float(y.mean()) if len(y) else None,
        mean_score=float(scores.mean()) if len(y) else None,
        auc=float(roc_auc_score(y, scores)) if both else None,
        logloss=float(log_loss(y, scores, labels=[0, 1])) if len(y) else None,
        brier=float(brier_score_loss(y, scores, labels=[0, 1], pos_label=1)) if len(y) else None,
    )


def _require_unique(what: str, rows: pa.Table, key: str) -> None:
    distinct = pc.count_distinct(rows[key], mode="all").as_py()
    if rows[key].null_count or distinct != rows.num_rows:
        raise ValidationError(
            f"{what}: {rows.num_rows} rows hold {distinct} different values of {key} and "
            f"{rows[key].null_count} nulls; expected one row per key. Pass one day at a time."
        )


def _require_values(joined: pa.Table) -> None:
    scores = joined["score"].cast(pa.float64())
    valid = pc.and_(pc.greater_equal(scores, 0.0), pc.less_equal(scores, 1.0))
    bad_scores = joined.num_rows - (pc.sum(pc.cast(valid, pa.int64())).as_py() or 0)
    seen = {float(label) for label in joined["label"].unique().drop_null().to_pylist()}
    if bad_scores or not seen <= {0.0, 1.0}:
        raise ValidationError(
            f"Found {bad_scores} scores that are missing or outside [0, 1] and the labels "
            f"{sorted(seen)[:5]}; expected probabilities and labels 0 or 1."
        )
