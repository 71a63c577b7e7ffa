"""One day's scores: everybody scored once, ranked over the whole day, with reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evergreen.contract import UseCase, arrow
from evergreen.errors import ConfigError, NotReadyError, ValidationError
from evergreen.scoring.groups import groups_of
from evergreen.scoring.reasons import Reasons, no_reasons
from evergreen.training.frame import AS_OF
from evergreen.training.model import LoadedModel, Vector

_CHUNK_ROWS = 100_000
_INSTANT = pa.timestamp("us", "UTC")


def predictions_schema(use_case: UseCase) -> pa.Schema:
    """Columns of the `predictions` table.

    Returns
    -------
    pyarrow.Schema
        entity key; `as_of` timestamp[us, UTC]; the target's score columns, float64, `score` among
        them; `rank` int64 from 1, the highest score first; `band` string; `reasons` list of string;
        `model_version` int64; `variant` string; with an experiment `group` string; `day` date32.
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
            *([pa.field("group", pa.string())] if use_case.experiment else ()),
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
        Target, bands, number of reasons and who gets them, name of the key.
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
        There are no rows, or the version has learned no interval.
    ConfigError
        A column is missing or has a wrong type.
    ValidationError
        Keys are null or repeated, there is more than one as-of, or it ends no day of the use case.

    Notes
    -----
    Cost: `O(rows * trees * depth)` for scores, about as much again for the reasons of the rows that
    get them (see `Reasons`), and a sort. Memory beyond the features and the predictions: 8 bytes a
    row for the order, and one chunk; where the features do not come in the order of their keys,
    also a copy of them that does.
    """
    key, schema = use_case.entity.key, predictions_schema(use_case)
    features = _one_day(features, use_case)
    instant = features.column(AS_OF)[0].cast(_INSTANT)
    scores = _scores(model, features, use_case, threads, chunk_rows)
    # The rows are in the order of their keys, and equal scores leave them so.
    order = np.argsort(-scores["score"], kind="stable")
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        name: pa.array(scores.pop(name)[order]) for name in use_case.target.score_columns
    }
    bands = _bands(columns["score"].to_numpy(), use_case)
    inputs = features.select(list(model.inputs.names))
    reasons = Reasons(model, use_case, threads=threads)

    def explained() -> Iterator[pa.ListArray]:
        for band, rows in bands.items():
            if band in use_case.explained_bands:
                for start in range(rows.start, rows.stop, chunk_rows):
                    chunk = order[start : min(start + chunk_rows, rows.stop)]
                    yield reasons.of(inputs.take(pa.array(chunk)))
            else:
                yield no_reasons(rows.stop - rows.start)

    day = use_case.day_of(instant.as_py())
    constants = {
        AS_OF: instant,
        "model_version": model.version,
        "variant": variant,
        "day": day,
    }
    columns |= {
        key: features.column(key).take(pa.array(order)).cast(schema.field(key).type),
        "rank": pa.array(np.arange(1, len(order) + 1)),
        "band": pa.chunked_array(
            [pa.repeat(band, rows.stop - rows.start) for band, rows in bands.items()]
        ),
        "reasons": pa.chunked_array(explained()),
        **{
            name: pa.repeat(pa.scalar(value, schema.field(name).type), len(order))
            for name, value in constants.items()
        },
    }
    if use_case.experiment:
        columns["group"] = groups_of(use_case, columns[key], columns["band"], day)
    return pa.table([columns[name] for name in schema.names], schema)


def rank(scored: pa.Table, use_case: UseCase) -> pa.Table:
    """Rank what was scored in parts over the whole day, as `score` does.

    Parameters
    ----------
    scored
        What `score` gave for each shard, or by each version, in any order.
    """
    ordered = scored.sort_by([("score", "descending"), (use_case.entity.key, "ascending")])
    ranks = pa.array(np.arange(1, ordered.num_rows + 1))
    at = ordered.schema.get_field_index("rank")
    return ordered.set_column(at, ordered.schema.field(at), ranks)


def band_of(score: float, use_case: UseCase) -> str:
    """Return the band of one score; the lowest takes all that is lower, too."""
    return next(
        (band for band, bound in use_case.bands.items() if score >= bound), [*use_case.bands][-1]
    )


def _one_day(features: pa.Table, use_case: UseCase) -> pa.Table:
    """Return the features in the order of their keys, as they are published."""
    key = use_case.entity.key
    for name in (key, AS_OF):
        if name not in features.column_names:
            raise ConfigError(f"The features lack {name}; found {features.column_names}.")
    if features.num_rows == 0:
        raise NotReadyError(
            "There are no features to score; expected one row per entity. Compute the day's "
            "features first, or check that anything happened before it."
        )
    if nulls := features.column(key).null_count:
        raise ValidationError(f"{nulls} rows of features have no {key}; expected none.")
    if not _all_neighbours(pc.less_equal, features.column(key)):
        features = features.sort_by(key)
    if not _all_neighbours(pc.less, features.column(key)):
        distinct = pc.count_distinct(features.column(key)).as_py()
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
    return features


def _all_neighbours(compare: Callable[..., pa.ChunkedArray], keys: pa.ChunkedArray) -> bool:
    found: bool = pc.all(compare(keys.slice(0, len(keys) - 1), keys.slice(1)), min_count=0).as_py()
    return found


def _scores(
    model: LoadedModel, features: pa.Table, use_case: UseCase, threads: int, chunk_rows: int
) -> dict[str, Vector]:
    """Return the score columns, in the order of the features."""
    scores = {name: np.empty(features.num_rows) for name in use_case.target.score_columns}
    for start in range(0, features.num_rows, chunk_rows):
        matrix = model.inputs.prepare(features.slice(start, chunk_rows))
        predicted = model.model.predict(matrix, use_case.target, threads=threads)
        if lacking := scores.keys() - predicted.keys():
            raise NotReadyError(
                f"Version {model.version} gives no {', '.join(sorted(lacking))}, which "
                f"{use_case.name} declares: it was trained before. Train, and score by what comes."
            )
        for name in scores:
            scores[name][start : start + chunk_rows] = predicted[name]
    return scores


def _bands(scores: Vector, use_case: UseCase) -> dict[str, slice]:
    """Return the rows of each band, of scores that descend; the lowest takes all that is lower."""
    bounds = np.array(list(use_case.bands.values()))
    stops = [*np.searchsorted(-scores, -bounds[:-1], side="right").tolist(), len(scores)]
    return dict(zip(use_case.bands, map(slice, [0, *stops[:-1]], stops), strict=True))
