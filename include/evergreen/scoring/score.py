"""One day's scores: everybody scored once, ranked over the whole day, with reasons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evergreen.contract import UseCase, arrow
from evergreen.errors import ConfigError, NotReadyError, ValidationError
from evergreen.training.frame import AS_OF
from evergreen.training.inputs import Matrix
from evergreen.training.model import LoadedModel

_CHUNK_ROWS = 100_000
_INSTANT = pa.timestamp("us", "UTC")


def predictions_schema(use_case: UseCase) -> pa.Schema:
    """Columns of the `predictions` table.

    Returns
    -------
    pyarrow.Schema
        entity key; `as_of` timestamp[us, UTC]; the target's score columns, float64, `score` among
        them; `rank` int64 from 1, the highest score first; `band` string; `reasons` list of string;
        `model_version` int64; `variant` string; `day` date32.
    """
    return pa.schema(
        [
            pa.field(use_case.entity.key, arrow(use_case.key_dtype), nullable=False),
            pa.field(AS_OF, _INSTANT, nullable=False),
            *(
                pa.field(name, pa.float64(), nullable=False)
                for name in use_case.target.score_columns
            ),
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
        The version resolved for this run; its own inputs are read, so an old version can score as
        long as its features exist.
    features
        One partition of the feature table: entity key, `as_of` (the same in all rows) and the
        features, in any order of rows and columns. Not modified.
    use_case
        Target, bands, number of reasons, name of the key.
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
        A column is missing or has a wrong type.
    ValidationError
        Keys are null or repeated, there is more than one as-of, or it ends no day of the use case.

    Notes
    -----
    A reason reads `days_since_last_order=83.2 raises 0.42` or `country=DE raises 0.12`: the
    feature, its value (of numbers four significant digits; `missing` if there is none, or none that
    the model knows), the direction in which it moves this score, and by how much in what the trees
    add up: log-odds of a probability, the logarithm of a count or amount, else the score itself
    (SHAP values; Lundberg et al. 2018). Strongest first; features that move nothing are left out.
    Cost: `O(rows)` for scores, `O(rows * trees * depth^2)` for reasons.
    """
    key = use_case.entity.key
    _require_one_day(features, use_case)
    instant = features.column(AS_OF).cast(_INSTANT)[0]
    columns: dict[str, list[np.ndarray[Any, Any]]] = {}
    reasons = []
    for chunk in _chunks(features, chunk_rows):
        matrix = model.inputs.prepare(chunk)
        predicted = model.model.predict(matrix, use_case.target, threads=threads)
        for name, values in predicted.items():
            columns.setdefault(name, []).append(values)
        reasons.append(_reasons(model, matrix, use_case, threads))
    scored = {name: np.concatenate(parts) for name, parts in columns.items()}
    rows = len(scored["score"])
    if rows != features.num_rows:
        raise ValidationError(f"{rows} scores came out of {features.num_rows} rows of features.")
    predictions = pa.table(
        {
            key: features.column(key),
            AS_OF: pa.repeat(instant, rows),
            **{name: pa.array(values) for name, values in scored.items()},
            "band": _bands(scored["score"], use_case),
            "reasons": pa.chunked_array(reasons),
            "model_version": pa.repeat(pa.scalar(model.version, pa.int64()), rows),
            "variant": pa.repeat(pa.scalar(variant, pa.string()), rows),
            "day": pa.repeat(pa.scalar(use_case.day_of(instant.as_py()), pa.date32()), rows),
        }
    )
    order = pc.sort_indices(predictions, [("score", "descending"), (key, "ascending")])
    ranked = predictions.take(order).append_column("rank", pa.array(np.arange(1, rows + 1)))
    schema = predictions_schema(use_case)
    return ranked.select(schema.names).cast(schema).combine_chunks()


def _require_one_day(features: pa.Table, use_case: UseCase) -> None:
    key = use_case.entity.key
    for name in (key, AS_OF):
        if name not in features.column_names:
            raise ConfigError(f"The features lack {name}; found {features.column_names}.")
    if features.num_rows == 0:
        raise NotReadyError(
            "There are no features to score; expected one row per entity. Compute the day's "
            "features first, or check that anything happened before it."
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
    found = instants[0].as_py()
    expected = use_case.as_of(use_case.day_of(found))
    if found != expected:
        raise ValidationError(
            f"as_of is {found}; expected the end of a day in {use_case.zone}, such as {expected}."
        )


def _chunks(features: pa.Table, rows: int) -> Iterator[pa.Table]:
    for start in range(0, features.num_rows, rows):
        yield features.slice(start, rows)


def _bands(scores: np.ndarray[Any, Any], use_case: UseCase) -> pa.Array:
    bands = use_case.bands
    ascending = np.array(list(bands.values())[::-1])
    # The number of lower bounds at or below the score; the lowest band takes all that is lower.
    index = np.maximum(np.searchsorted(ascending, scores, side="right") - 1, 0)
    return pa.array(list(bands)[::-1]).take(pa.array(index))


def _reasons(model: LoadedModel, matrix: Matrix, use_case: UseCase, threads: int) -> pa.Array:
    """Texts of the strongest contributions per row, list<string>."""
    rows, width = matrix.shape
    top = min(use_case.scoring.reasons, width)
    if top == 0:
        return pa.array([[]] * rows, pa.list_(pa.string()))
    names = list(model.inputs.names)
    contributions = np.round(model.model.explain(matrix, use_case.target, threads=threads), 2)
    strongest = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, :top]
    moved = np.take_along_axis(contributions, strongest, axis=1)
    keep = moved != 0.0
    texts = pc.binary_join_element_wise(
        pa.array(names).take(pa.array(strongest[keep])),
        pc.binary_join_element_wise(
            _value_texts(model, matrix, strongest, keep),
            pc.if_else(pa.array(moved[keep] > 0), "raises", "lowers"),
            pa.array(np.abs(moved[keep])).cast(pa.string()),
            " ",
        ),
        "=",
    )
    offsets = np.concatenate([[0], np.cumsum(keep.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), texts)


def _value_texts(
    model: LoadedModel, matrix: Matrix, columns: np.ndarray[Any, Any], keep: np.ndarray[Any, Any]
) -> pa.Array:
    """Texts of the values in the chosen columns of each row, where they are kept."""
    places = columns[keep]
    values = np.take_along_axis(matrix, columns, axis=1)[keep]
    texts = _number_texts(values)
    for index, name in enumerate(model.inputs.names):
        if name in model.inputs.categories:
            here = places == index
            words = model.inputs.decode(index, values[here])
            texts = pc.replace_with_mask(texts, pa.array(here), words)
    return pc.fill_null(texts, "missing")


def _number_texts(values: Matrix) -> pa.Array:
    """Four significant digits at most, whole numbers in full; null for NaN."""
    exact = values.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        magnitude = np.floor(np.log10(np.abs(exact)))
    digits = np.where(np.isfinite(magnitude), np.clip(3 - magnitude, 0, 12), 0)
    scale = 10.0**digits
    return pa.array(np.round(exact * scale) / scale, from_pandas=True).cast(pa.string())
