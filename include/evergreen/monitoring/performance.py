"""Realised performance: what past scores were worth, once their labels are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from evergreen.contract import UseCase
from evergreen.decisions.stored import Stored
from evergreen.errors import NotReadyError, ValidationError
from evergreen.statistics import of_rows, once
from evergreen.targets import TargetModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

PERFORMANCE = pa.schema(
    [
        ("day", pa.date32()),
        ("model_version", pa.int64()),
        ("slice", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("rows", pa.int64()),
        ("unlabelled", pa.int64()),
        ("holdout", pa.float64()),
        ("degraded", pa.bool_()),
        ("reason", pa.string()),
    ]
)
"""Arrow schema of the table `performance`: one row per scored day, version, slice and metric."""

ALL = "all"
"""The slice of all predictions of a version; the others are `band=<name>`."""

# Of an interval.
_ENDS = ("lower", "upper")

MAX_UNLABELLED_RATIO = 0.01
"""Largest tolerable share of predictions without a label."""


@dataclass(frozen=True)
class PerformanceRow(Stored):
    """One metric of one slice of one scored day.

    Parameters
    ----------
    metric
        Of the target, or `mean_label`, `mean_score`.
    value
        None where the metric does not exist for these rows.
    rows, unlabelled
        Predictions with and without a label.
    holdout
        What the same version reached on its holdout; None if that is not on record, and for bands.
    degraded, reason
        Whether the main metric of slice `all` fell too far below it, and why; else no reason.
    """

    model_version: int
    slice: str
    metric: str
    value: float | None
    rows: int
    unlabelled: int
    holdout: float | None = None
    degraded: bool = False
    reason: str = ""


def realised_performance(
    predictions: pa.Table,
    labels: pa.Table,
    use_case: UseCase,
    holdouts: Mapping[int, Mapping[str, float]],
) -> list[PerformanceRow]:
    """Compare the scores of one day with the labels of the same day.

    Parameters
    ----------
    predictions
        Entity key, `score`, `model_version` and `band`, and where the target has intervals `lower`
        and `upper`, absent or null where it was scored without; one row per key. Not modified.
    labels
        Entity key, `label` (null while unknown); one row per key. More keys than predictions are
        fine: events that arrived late brought new entities. Not modified.
    holdouts
        Metrics on its holdout, by model version; a version that is not in it is not judged.

    Returns
    -------
    list of PerformanceRow
        Per model version: the slice `all`, then each band by name; of each, the target's metrics in
        their order, `mean_label` and `mean_score`. Only the main metric of `all` is judged: within
        a band the scores hardly differ.

    Raises
    ------
    NotReadyError
        There are no predictions or no labels.
    ValidationError
        A key occurs twice, a label is impossible, a score is missing or impossible, or too many
        predictions have no label.
    """
    joined = _joined(predictions, labels, use_case)
    rows: list[PerformanceRow] = []
    for version in sorted(joined["model_version"].unique().to_pylist()):
        of_version = joined.filter(pc.equal(joined["model_version"], version))
        whole = list(_measured(version, ALL, of_version, use_case.target))
        rows += _judged(whole, of_version, use_case, holdouts.get(version, {}))
        for band in sorted(of_version["band"].unique().to_pylist()):
            part = of_version.filter(pc.equal(of_version["band"], band))
            rows += _measured(version, f"band={band}", part, use_case.target)
    return rows


def performance_table(day: date, rows: Sequence[PerformanceRow]) -> pa.Table:
    """Return rows with the schema `PERFORMANCE`; `day` is the day that was scored."""
    return pa.Table.from_pylist([{"day": day} | asdict(row) for row in rows], schema=PERFORMANCE)


def _joined(predictions: pa.Table, labels: pa.Table, use_case: UseCase) -> pa.Table:
    key = use_case.entity.key
    if predictions.num_rows == 0 or labels.num_rows == 0:
        raise NotReadyError(
            f"Found {predictions.num_rows} predictions and {labels.num_rows} labels; performance "
            "needs both. Score the day, and wait for its labels to mature."
        )
    for what, rows in (("predictions", predictions), ("labels", labels)):
        _require_unique(what, rows, key)
    ends = [name for name in _ENDS if name in predictions.column_names]
    joined = predictions.select([key, "score", "model_version", "band", *ends]).join(
        labels.select([key, "label"]), keys=key, join_type="left outer"
    )
    if joined.num_rows != predictions.num_rows:
        raise ValidationError(
            f"{predictions.num_rows} predictions became {joined.num_rows} rows when joined with "
            "their labels; expected the same number."
        )
    unlabelled = joined["label"].null_count
    if unlabelled > MAX_UNLABELLED_RATIO * joined.num_rows:
        raise ValidationError(
            f"{unlabelled} of {joined.num_rows} predictions have no label, expected at most "
            f"{MAX_UNLABELLED_RATIO:.1%}. Compute the labels of this day again."
        )
    _require_scores(joined["score"], use_case.target)
    return joined


def _held(rows: pa.Table, labels: Vector, target: TargetModel) -> dict[str, float]:
    """Measure the intervals, where the day was scored with any."""
    scored = {*_ENDS} <= {*rows.column_names}
    if target.level is None or not scored or rows["lower"].null_count:
        return {}
    ends = [rows[name].to_numpy() for name in _ENDS]
    return once(of_rows(target.resampled_intervals, labels, *ends), len(labels))


def _measured(
    version: int, name: str, rows: pa.Table, target: TargetModel
) -> Iterator[PerformanceRow]:
    labelled = rows.filter(pc.is_valid(rows["label"]))
    labels = target.read_labels(labelled["label"])
    scores = labelled["score"].to_numpy()
    values: dict[str, float | None] = {
        **dict.fromkeys(target.all_metrics),
        **target.measure(labels, scores),
        **_held(labelled, labels, target),
        "mean_label": float(labels.mean()) if len(labels) else None,
        "mean_score": float(scores.mean()) if len(labels) else None,
    }
    for metric, value in values.items():
        yield PerformanceRow(
            model_version=version,
            slice=name,
            metric=metric,
            value=value,
            rows=len(labels),
            unlabelled=rows.num_rows - len(labels),
        )


def _judged(
    measured: Sequence[PerformanceRow],
    rows: pa.Table,
    use_case: UseCase,
    holdout: Mapping[str, float],
) -> Iterator[PerformanceRow]:
    target = use_case.target
    counts = target.count(target.read_labels(rows["label"].drop_null()))
    for row in measured:
        compared = replace(row, holdout=holdout.get(row.metric))
        if row.metric == target.main_metric:
            degraded, reason = _judge(compared, target.too_few(counts), use_case)
            compared = replace(compared, degraded=degraded, reason=reason)
        yield compared


def _judge(row: PerformanceRow, too_few: str | None, use_case: UseCase) -> tuple[bool, str]:
    if row.holdout is None:
        return False, f"version {row.model_version} has no {row.metric} of a holdout on record"
    if too_few or row.value is None:
        return False, f"too little to judge: {too_few or f'{row.metric} does not exist'}"
    drop = use_case.monitoring.max_performance_drop
    if drop is None:
        drop = use_case.target.max_drop
    least = row.holdout - drop
    degraded = row.value < least
    return degraded, (
        f"{row.metric} {row.value:.4f} {'is below' if degraded else 'reaches'} {least:.4f}, "
        f"{row.holdout:.4f} on the holdout less allowed drop {drop:g}"
    )


def _require_unique(what: str, rows: pa.Table, key: str) -> None:
    distinct = pc.count_distinct(rows[key], mode="all").as_py()
    if rows[key].null_count or distinct != rows.num_rows:
        raise ValidationError(
            f"{what}: {rows.num_rows} rows hold {distinct} different values of {key} and "
            f"{rows[key].null_count} nulls; expected one row per key. Pass one day at a time."
        )


def _require_scores(scores: pa.ChunkedArray, target: TargetModel) -> None:
    low, high = target.score_range
    valid = pc.is_finite(scores)
    if low is not None:
        valid = pc.and_(valid, pc.greater_equal(scores, low))
    if high is not None:
        valid = pc.and_(valid, pc.less_equal(scores, high))
    if bad := len(scores) - (pc.sum(valid).as_py() or 0):
        raise ValidationError(
            f"Found {bad} scores that are missing or no scores of {target.name}; expected finite "
            f"ones from {low} to {high} (None: without bound)."
        )
