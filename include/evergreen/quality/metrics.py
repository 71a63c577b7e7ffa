"""One row per day: the figures that rules about a whole batch are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from evergreen.contract import AnyTable, UseCase
from evergreen.quality.row_counts import Usual, usual_row_counts

# Where a row that came in may be.
_OUT = ("accepted", "quarantined", "duplicates", "erased")


def rows_by_day(table: AnyTable, counts: pa.Table, row_counts: Mapping[date, int]) -> pd.DataFrame:
    """Return what the batch rules of a table judge.

    Parameters
    ----------
    counts
        `schemas.counts_schema()`, one row per day, in any order.
    row_counts
        Rows in of other days. Where a day is in both, the batch counts.

    Returns
    -------
    pandas.DataFrame
        Index-free, by `day` (ISO text), ascending: `rows_in`, `rows_out` (accepted + quarantined +
        duplicates + erased), `accepted` (with erased ones: nothing is wrong with them),
        `quarantined` (int64); `rows_usual`, `rows_least`, `rows_most` (of `rows_in`),
        `quarantined_ratio`, `age_hours` (float64, NaN where there is nothing to judge).

    Notes
    -----
    Days of the batch count for one another, so a day is judged alike whether it comes alone, after
    them, or among them; see `usual_row_counts`.
    `quarantined_ratio` is NaN on days with fewer than `quarantined_min_rows` rows.
    """
    rules = table.batch
    days = sorted(counts.to_pylist(), key=lambda row: row["day"])
    known = {**row_counts, **{row["day"]: row["rows_in"] for row in days}}
    usual = usual_row_counts(table, known, [row["day"] for row in days])
    rows = []
    for row in days:
        day, rows_in = row["day"], row["rows_in"]
        expected = usual.get(day, Usual(np.nan, np.nan, np.nan))
        rows.append(
            {
                "day": day.isoformat(),
                "rows_in": rows_in,
                "rows_out": sum(row[name] for name in _OUT),
                "accepted": row["accepted"] + row["erased"],
                "quarantined": row["quarantined"],
                "rows_usual": expected.rows,
                "rows_least": expected.least,
                "rows_most": expected.most,
                "quarantined_ratio": (
                    row["quarantined"] / rows_in
                    if rows_in >= rules.quarantined_min_rows
                    else np.nan
                ),
                "age_hours": _age_hours(table, day, row["newest_at"]),
            }
        )
    columns = ("rows_in", "rows_out", "accepted", "quarantined")
    others = ("rows_usual", "rows_least", "rows_most", "quarantined_ratio", "age_hours")
    types = {**dict.fromkeys(columns, "int64"), **dict.fromkeys(others, "float64")}
    return pd.DataFrame(rows, columns=["day", *types]).astype(types)


def features_by_day(
    use_case: UseCase, found: Mapping[datetime | None, int], days: Sequence[date]
) -> pd.DataFrame:
    """Return one row per as-of that was asked for or found.

    Parameters
    ----------
    found
        Number of rows per `as_of`.

    Returns
    -------
    pandas.DataFrame
        `as_of` (ISO text), `rows` (int64), `asked_for` (1 or 0; an as-of is asked for only if it
        is the end of a day asked for).
    """
    asked = {use_case.as_of(day) for day in days}
    rows = [
        {"as_of": instant.isoformat(), "rows": found.get(instant, 0), "asked_for": instant in asked}
        for instant in sorted(asked | {instant for instant in found if instant is not None})
    ]
    types = {"rows": "int64", "asked_for": "int64"}
    return pd.DataFrame(rows, columns=["as_of", *types]).astype(types)


def predictions_by_day(
    use_case: UseCase, predictions: pa.Table, population: Mapping[date, int]
) -> pd.DataFrame:
    """Return what whole partitions of predictions are judged by.

    Parameters
    ----------
    predictions
        Columns `as_of`, `score`, `rank`, `band`, `model_version`.
    population
        Number of entities to be scored, per day.

    Returns
    -------
    pandas.DataFrame
        One row per day of the population or the predictions, by `day` (ISO text): `rows`,
        `population`, `lowest_rank`, `highest_rank`, `model_versions` (how many),
        `misplaced_bands` (rows whose band is not the one of their score); int64, 0 if absent.
    """
    misplaced = pc.not_equal(
        predictions.column("band").cast(pa.string()), _bands(use_case, predictions)
    )
    grouped = (
        predictions.select(["as_of", "rank", "model_version"])
        .append_column("misplaced", misplaced)
        .group_by("as_of")
        .aggregate(
            [
                ([], "count_all"),
                ("rank", "min"),
                ("rank", "max"),
                ("model_version", "count_distinct"),
                ("misplaced", "sum"),
            ]
        )
    )
    found = {row["as_of"]: row for row in grouped.to_pylist()}
    expected = {use_case.as_of(day): size for day, size in population.items()}
    rows = []
    for instant in sorted({*found, *expected} - {None}):
        row = found.get(instant, {})
        rows.append(
            {
                "day": use_case.day_of(instant).isoformat(),
                "rows": row.get("count_all", 0),
                "population": expected.get(instant, 0),
                "lowest_rank": row.get("rank_min") or 0,
                "highest_rank": row.get("rank_max") or 0,
                "model_versions": row.get("model_version_count_distinct", 0),
                "misplaced_bands": row.get("misplaced_sum") or 0,
            }
        )
    return pd.DataFrame(rows)


def _age_hours(table: AnyTable, day: date, newest_at: datetime | None) -> float:
    if newest_at is None:
        return float("nan")
    return (table.setting.as_of(day) - newest_at).total_seconds() / 3600


def _bands(use_case: UseCase, predictions: pa.Table) -> pa.Array:
    """Return the band each score belongs to; the lowest takes all that is lower."""
    scores = predictions.column("score")
    *higher, (lowest, _) = use_case.bands.items()
    found = pa.repeat(pa.scalar(lowest), len(scores))
    for name, low in reversed(higher):
        found = pc.if_else(pc.greater_equal(scores, low), pa.scalar(name), found)
    return found
