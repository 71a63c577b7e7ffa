"""One day's scores: everybody scored once, ranked over the whole day, with reasons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xgboost as xgb

from evergreen.contract import UseCase
from evergreen.errors import ConfigError, NotReadyError, ValidationError
from evergreen.training.fit import LoadedModel, predict
from evergreen.training.frame import AS_OF, Matrix, prepare

_CHUNK_ROWS = 100_000
_INSTANT = pa.timestamp("us", "UTC")
_MICROSECONDS_PER_DAY = 86_400_000_000


def predictions_schema(use_case: UseCase, key_type: pa.DataType | None = None) -> pa.Schema:
    """Columns of the `predictions` table.

    Parameters
    ----------
    use_case
        Names the entity key.
    key_type
        Arrow type of the key; by default what the contract of the orders declares.

    Returns
    -------
    pyarrow.Schema
        entity key; `as_of` timestamp[us, UTC]; `score` float64 in [0, 1]; `rank` int64 from 1,
        the highest score first; `band` string; `reasons` list of string; `model_version` int64;
        `variant` string; `day` date32.
    """
    if key_type is None:
        declared = use_case.orders.published[use_case.entity.key].dtype
        key_type = pa.int64() if declared == "int64" else pa.string()
    return pa.schema(
        [
            pa.field(use_case.entity.key, key_type, nullable=False),
            pa.field(AS_OF, _INSTANT, nullable=False),
            pa.field("score", pa.float64(), nullable=False),
            pa.field("rank", pa.int64(), nullable=False),
            pa.field("band", pa.string(), nullable=False),
            pa.field("reasons", pa.list_(pa.string()), nullable=False),
            pa.field("model_version", pa.int64(), nullable=False),
            pa.field("variant", pa.string(), nullable=False),
            pa.field("day", pa.date32(), nullable=False),
        ]
    )


def score(
    model: LoadedModel,
    features: pa.Table,
    use_case: UseCase,
    *,
    threads: int,
    variant: str = "champion",
    chunk_rows: int = _CHUNK_ROWS,
) -> pa.Table:
    """Score every entity of one day.

    Parameters
    ----------
    model
        The version resolved for this run; its own feature names are read, so an old version can
        score as long as its features exist.
    features
        One partition of the feature table: entity key, `as_of` (the same in all rows) and the
        features, in any order of rows and columns. Not modified.
    use_case
        Bands, number of reasons, name of the key.
    threads
        Threads of the prediction.
    variant
        What the model was scored as, e.g. `champion`.
    chunk_rows
        Rows prepared at a time; bounds the memory, does not change the result.

    Returns
    -------
    pyarrow.Table
        `predictions_schema`, sorted by rank. Equal scores are ranked by key, ascending, so the
        order of the input does not matter.

    Raises
    ------
    NotReadyError
        There are no rows.
    ConfigError
        A column is missing or is not a number.
    ValidationError
        Keys are null or repeated, there is more than one as-of, or it is not a midnight.

    Notes
    -----
    A reason reads `days_since_last_order=83.2 raises 0.42`: the feature, its value (four
    significant digits, or `missing`), the direction in which it moves this score, and by how much
    in log-odds (SHAP values of the trees; Lundberg et al. 2018). Strongest first; features that
    move nothing are left out. Cost: `O(rows)` for scores, `O(rows * trees * depth^2)` for reasons.
    """
    key = use_case.entity.key
    _require_one_day(features, key)
    instant = features.column(AS_OF).cast(_INSTANT)[0]
    keys = features.column(key)
    if pa.types.is_dictionary(keys.type):
        keys = keys.cast(keys.type.value_type)
    scores, reasons = [], []
    for chunk in _chunks(features, chunk_rows):
        matrix = prepare(chunk, model.feature_names)
        scores.append(predict(model.booster, matrix, threads=threads))
        reasons.append(_reasons(model, matrix, use_case))
    score_values = np.concatenate(scores)
    rows = len(score_values)
    if rows != features.num_rows:
        raise ValidationError(f"{rows} scores came out of {features.num_rows} rows of features.")
    predictions = pa.table(
        {
            key: keys,
            AS_OF: pa.repeat(instant, rows),
            "score": pa.array(score_values),
            "band": _bands(score_values, use_case),
            "reasons": pa.chunked_array(reasons),
            "model_version": pa.repeat(pa.scalar(model.version, pa.int64()), rows),
            "variant": pa.repeat(pa.scalar(variant, pa.string()), rows),
            # A day's as-of is its end.
            "day": pa.repeat(
                pa.scalar(instant.value // _MICROSECONDS_PER_DAY - 1, pa.int32()).cast(pa.date32()),
                rows,
            ),
        }
    )
    order = pc.sort_indices(predictions, [("score", "descending"), (key, "ascending")])
    ranked = predictions.take(order).append_column("rank", pa.array(np.arange(1, rows + 1)))
    schema = predictions_schema(use_case, keys.type)
    return ranked.select(schema.names).cast(schema).combine_chunks()


def _require_one_day(features: pa.Table, key: str) -> None:
    for name in (key, AS_OF):
        if name not in features.column_names:
            raise ConfigError(f"The features lack {name}; found {features.column_names}.")
    if features.num_rows == 0:
        raise NotReadyError(
            "There are no features to score; expected one row per entity. Compute the day's "
            "features first, or check that anybody ordered before it."
        )
    keys = features.column(key)
    if keys.null_count:
        raise ValidationError(f"{keys.null_count} rows of features have no {key}; expected none.")
    distinct = pc.count_distinct(keys).as_py()
    if distinct != features.num_rows:
        raise ValidationError(
            f"The features have {features.num_rows} rows for {distinct} values of {key}; expected "
            "one row each. Check GROUP BY in features.sql."
        )
    instants = pc.unique(features.column(AS_OF).cast(_INSTANT))
    if len(instants) != 1 or instants.null_count:
        raise ValidationError(
            f"The features have {len(instants)} values of as_of ({instants[:3].to_pylist()}); "
            "expected exactly one. Score one partition at a time."
        )
    if instants[0].value % _MICROSECONDS_PER_DAY:
        raise ValidationError(f"as_of is {instants[0]}; expected midnight UTC, the end of a day.")


def _chunks(features: pa.Table, rows: int) -> Iterator[pa.Table]:
    for start in range(0, features.num_rows, rows):
        yield features.slice(start, rows)


def _bands(scores: np.ndarray[Any, Any], use_case: UseCase) -> pa.Array:
    bands = use_case.scoring.bands
    ascending = np.array(list(bands.values())[::-1])
    # The number of lower bounds at or below the score, counted from the lowest band.
    index = np.searchsorted(ascending, scores, side="right") - 1
    return pa.array(list(bands)[::-1]).take(pa.array(index))


def _reasons(model: LoadedModel, matrix: Matrix, use_case: UseCase) -> pa.Array:
    """Texts of the strongest contributions per row, list<string>."""
    rows, width = matrix.shape
    top = min(use_case.scoring.reasons, width)
    if top == 0:
        return pa.array([[]] * rows, pa.list_(pa.string()))
    names = list(model.feature_names)
    inputs = xgb.DMatrix(matrix, feature_names=names, missing=np.nan)
    # The last column is the bias, which is nobody's reason.
    contributions = model.booster.predict(inputs, pred_contribs=True)[:, :width].astype(np.float64)
    contributions = np.round(contributions, 2)
    strongest = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, :top]
    moved = np.take_along_axis(contributions, strongest, axis=1)
    values = np.take_along_axis(matrix, strongest, axis=1)
    keep = moved != 0.0
    texts = pc.binary_join_element_wise(
        pa.array(names).take(pa.array(strongest[keep])),
        pc.binary_join_element_wise(
            _value_texts(values[keep]),
            pc.if_else(pa.array(moved[keep] > 0), "raises", "lowers"),
            pa.array(np.abs(moved[keep])).cast(pa.string()),
            " ",
        ),
        "=",
    )
    offsets = np.concatenate([[0], np.cumsum(keep.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), texts)


def _value_texts(values: Matrix) -> pa.Array:
    """Four significant digits at most, whole numbers in full; `missing` for NaN."""
    exact = values.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        magnitude = np.floor(np.log10(np.abs(exact)))
    digits = np.where(np.isfinite(magnitude), np.clip(3 - magnitude, 0, 12), 0)
    scale = 10.0**digits
    rounded = np.round(exact * scale) / scale
    return pc.fill_null(pa.array(rounded, from_pandas=True).cast(pa.string()), "missing")
