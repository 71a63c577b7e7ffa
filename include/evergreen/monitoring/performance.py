"""Realised performance: what past scores were worth, once their labels are known.

A model has degraded where it is surely worth less than its promotion promised: where the main
metric, with all that chance may have taken from either, does not reach the holdout's less a margin.
A day that is merely lower says nothing, and there are many days.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evergreen.contract import UseCase
from evergreen.decisions.stored import Stored
from evergreen.errors import NotReadyError, ValidationError
from evergreen.statistics import Metrics, Weights, once, resample, weigh
from evergreen.targets import TargetModel
from evergreen.training.slices import find_slices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

PERFORMANCE = pa.schema(
    [
        ("day", pa.date32()),
        ("model_version", pa.int64()),
        ("slice", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("lower", pa.float64()),
        ("upper", pa.float64()),
        ("rows", pa.int64()),
        ("unlabelled", pa.int64()),
        ("holdout", pa.float64()),
        ("degraded", pa.bool_()),
        ("reason", pa.string()),
    ]
)
"""Arrow schema of the table `performance`: one row per scored day, version, slice and metric."""

ALL = "all"
"""The slice of all predictions of a version; the others are `band=<name>` and those declared."""

Holdouts = Mapping[int, Mapping[str, Mapping[str, float]]]
"""By version and slice, what was measured on the holdout: metrics, and bounds of theirs."""

# Of an interval.
_ENDS = ("lower", "upper")

_LEVEL = 0.95
_RESAMPLES = 200

MAX_UNLABELLED_RATIO = 0.01
"""Largest tolerable share of predictions without a label."""


@dataclass(frozen=True)
class PerformanceRow(Stored):
    """One metric of one slice of one scored day.

    Parameters
    ----------
    metric
        Of the target, or `mean_label`, `mean_score`.
    value, lower, upper
        None where the metric does not exist for these rows; bounds at 95 %.
    rows, unlabelled
        Predictions with and without a label.
    holdout
        What the same version reached on its holdout; None if that is not on record, and for bands.
    degraded, reason
        Whether the main metric has surely fallen too far below it, and why; else no reason.
    """

    model_version: int
    slice: str
    metric: str
    value: float | None
    rows: int
    unlabelled: int
    lower: float | None = None
    upper: float | None = None
    holdout: float | None = None
    degraded: bool = False
    reason: str = ""


def realised_performance(
    predictions: pa.Table,
    labels: pa.Table,
    use_case: UseCase,
    holdouts: Holdouts,
    features: pa.Table | None = None,
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
        A version, or a slice of it, that is not in it is not judged.
    features
        Entity key and the features of `training.slices` that day. Not modified.

    Returns
    -------
    list of PerformanceRow
        Per model version: the slice `all`, each band by name, and the slices of `training.slices`;
        of each, the target's metrics in their order, `mean_label` and `mean_score`. Bands are not
        judged: within a band the scores hardly differ.

    Raises
    ------
    NotReadyError
        There are no predictions or no labels.
    ValidationError
        A key occurs twice, a label is impossible, a score is missing or impossible, or too many
        predictions have no label.
    """
    joined = _joined(predictions, labels, use_case)
    slices = _members(features, use_case) if features else {}
    rows: list[PerformanceRow] = []
    for version in sorted(joined["model_version"].unique().to_pylist()):
        of_version = joined.filter(pc.equal(joined["model_version"], version))
        promised = holdouts.get(version, {})
        rows += _judged(ALL, of_version, version, use_case, promised.get(ALL, {}))
        for band in sorted(of_version["band"].unique().to_pylist()):
            part = of_version.filter(pc.equal(of_version["band"], band))
            rows += _measured(version, f"band={band}", part, use_case)
        for name, members in slices.items():
            part = of_version.filter(pc.is_in(of_version[use_case.entity.key], members))
            rows += _judged(name, part, version, use_case, promised.get(name, {}), len(slices))
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


def _members(features: pa.Table, use_case: UseCase) -> dict[str, pa.Array]:
    """Return who is in each slice of `training.slices`."""
    keys = features[use_case.entity.key].combine_chunks()
    return {name: keys.filter(pa.array(mask)) for name, mask in find_slices(use_case, features)}


def _metrics(target: TargetModel, rows: pa.Table) -> Metrics:
    """Prepare the metrics of labelled rows, under weights of theirs, and two means."""
    labels = target.read_labels(rows["label"])
    scores = rows["score"].to_numpy()
    measured = [target.resampled(labels, scores)]
    scored = {*_ENDS} <= {*rows.column_names}
    if target.level is not None and scored and not rows["lower"].null_count:
        ends = [rows[name].to_numpy() for name in _ENDS]
        measured.append(target.resampled_intervals(labels, *ends))

    def metrics(weights: Weights) -> dict[str, Vector]:
        drawn = weights.astype(np.float64)
        sizes = drawn.sum(axis=1)
        found = {name: values for part in measured for name, values in part(weights).items()}
        means = {"mean_label": labels, "mean_score": scores}
        with np.errstate(invalid="ignore"):
            return found | {name: weigh(drawn, each) / sizes for name, each in means.items()}

    return metrics


def _measured(
    version: int, name: str, rows: pa.Table, use_case: UseCase
) -> Iterator[PerformanceRow]:
    """Measure one slice, with bounds of what other customers of the same kind would have shown."""
    target, seed = use_case.target, use_case.training.seed
    labelled = rows.filter(pc.is_valid(rows["label"]))
    size = labelled.num_rows

    def measure(part: NDArray[np.intp]) -> Metrics:
        return _metrics(target, labelled.take(pa.array(part)))

    found = once(measure, size)
    samples = resample(measure, size, resamples=_RESAMPLES, seed=seed) if size else {}
    limits = target.all_metrics
    for metric in (*target.all_metrics, "mean_label", "mean_score"):
        value, lower, upper = found.get(metric), None, None
        if value is not None and np.isfinite(samples[metric]).sum() > 1:
            reach = _reach(_LEVEL) * float(np.nanstd(samples[metric], ddof=1))
            least, most = limits.get(metric, (-math.inf, math.inf))
            lower, upper = max(value - reach, least), min(value + reach, most)
        yield PerformanceRow(
            model_version=version,
            slice=name,
            metric=metric,
            value=value,
            lower=lower,
            upper=upper,
            rows=size,
            unlabelled=rows.num_rows - size,
        )


def _judged(
    name: str,
    rows: pa.Table,
    version: int,
    use_case: UseCase,
    holdout: Mapping[str, float],
    among: int = 1,
) -> Iterator[PerformanceRow]:
    """Measure one slice out of so many, and judge it by its holdout."""
    target = use_case.target
    counts = target.count(target.read_labels(rows["label"].drop_null()))
    for row in _measured(version, name, rows, use_case):
        compared = replace(row, holdout=holdout.get(row.metric))
        if row.metric == target.main_metric and (name == ALL or compared.holdout is not None):
            degraded, reason = _judge(compared, holdout, target.too_few(counts), use_case, among)
            compared = replace(compared, degraded=degraded, reason=reason)
        yield compared


def _judge(
    row: PerformanceRow,
    holdout: Mapping[str, float],
    too_few: str | None,
    use_case: UseCase,
    among: int,
) -> tuple[bool, str]:
    if row.holdout is None:
        return False, f"version {row.model_version} has no {row.metric} of a holdout on record"
    if too_few or row.value is None or row.lower is None or row.upper is None:
        return False, f"too little to judge: {too_few or f'{row.metric} does not exist'}"
    drop = use_case.monitoring.max_performance_drop
    if drop is None:
        drop = use_case.target.max_drop
    # Both were measured on samples. A holdout whose bounds are not known counts as unsure as this.
    ours = row.upper - row.lower
    low, high = (holdout.get(f"{row.metric}_{end}") for end in ("low", "high"))
    theirs = ours if low is None or high is None else high - low
    error = math.hypot(ours, theirs) / (2 * _reach(_LEVEL))
    reach = _reach(1 - (1 - _LEVEL) / among) * error
    least = row.holdout - drop
    degraded = row.value + reach < least
    if degraded:
        what = "is surely below"
    else:
        what = "reaches" if row.value >= least else "may by chance be below"
    return degraded, (
        f"{row.metric} {row.value:.4f} (give or take {reach:.4f}) {what} {least:.4f}, "
        f"{row.holdout:.4f} on the holdout less allowed drop {drop:g}"
    )


def _reach(level: float) -> float:
    """How many standard errors an interval reaches to either side."""
    return NormalDist().inv_cdf((1 + level) / 2)


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
