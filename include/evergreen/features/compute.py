"""Features and labels of as-of days, with a proof that no feature saw its future.

Notes
-----
Computing one day is honest by construction: the SQL sees no order at or after that day's `as_of`
(for labels: `horizon_end`). Computing many days at once shows the SQL orders that lie after the
earlier `as_of`s, so it is only honest if it says `< as_of` itself. Therefore the first and a
middle day are computed again, each alone, and must come out equal. The proof costs two one-day
queries per call, whatever the number of days.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import ColumnExpression

from evergreen.errors import ConfigError
from evergreen.features.engine import Engine
from evergreen.features.look_ahead import require_equal
from evergreen.use_case import Dtype, UseCase, as_of

# Measured: larger chunks save little time, and memory grows with days x customers.
DAYS_PER_CHUNK = 30

INSTANT = pa.timestamp("us", tz="UTC")
ARROW_TYPES: dict[Dtype, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": INSTANT,
    "date": pa.date32(),
}
_INTEGERS = {
    *("tinyint", "smallint", "integer", "bigint", "hugeint"),
    *("utinyint", "usmallint", "uinteger", "ubigint", "uhugeint"),
}
_FRACTIONS = {"float", "double", "decimal"}
# What SQL may return for a declared dtype; the values themselves must then fit exactly.
_ACCEPTED: dict[Dtype, set[str]] = {
    "string": {"varchar"},
    "int64": _INTEGERS | _FRACTIONS,
    "float64": _INTEGERS | _FRACTIONS,
    "bool": {"boolean"},
    "timestamp": {"timestamp", "timestamp with time zone", "date"},
    "date": {"date"},
}


def compute_features(
    use_case: UseCase,
    orders_paths: Sequence[str],
    days: Sequence[date],
    *,
    threads: int,
    memory_mb: int,
) -> pa.Table:
    """Compute the features of some days.

    Parameters
    ----------
    use_case
        Its `features.sql` runs over the relations `orders` and `as_of_days(as_of)`.
    orders_paths
        Planned Parquet files of the accepted orders; they may hold later orders too. May be empty.
    days
        UTC days, in any order; features of day D know the orders before D+1 00:00 UTC.
    threads, memory_mb
        DuckDB's limits.

    Returns
    -------
    pa.Table
        Columns: entity key, `as_of` (timestamp[us, UTC]), the declared features in declared order
        and dtype, `day` (date32). Sorted by (`as_of`, key); one row per pair.

    Raises
    ------
    ConfigError
        The SQL fails, reads anything else, or its result breaks the contract.
    LookAheadError
        Features of a day change with orders at or after its `as_of`.

    Notes
    -----
    The bytes depend on nothing but orders, SQL and days as long as the SQL avoids sums of floats,
    whose last digits follow the order of rows; sum DECIMALs instead. Cost is that of the SQL; see
    `iter_features` for many days.
    """
    return _whole(_features_task(use_case), orders_paths, days, threads, memory_mb)


def compute_labels(
    use_case: UseCase,
    orders_paths: Sequence[str],
    days: Sequence[date],
    *,
    threads: int,
    memory_mb: int,
) -> pa.Table:
    """Compute the labels of days whose horizon the orders cover; see `compute_features`.

    `labels.sql` runs over `orders` and `as_of_days(as_of, horizon_end)`, with
    `horizon_end = as_of + horizon_days`, excluded.

    Returns
    -------
    pa.Table
        Columns: entity key, `as_of`, `label` (bool, never null), `known_at` (the `horizon_end`,
        timestamp[us, UTC]), `day` (date32). Sorted by (`as_of`, key); one row per pair.

    Raises
    ------
    ConfigError
        As for `compute_features`.
    LookAheadError
        Labels change with orders at or after `horizon_end`, or who gets a label changes with
        orders at or after `as_of`.
    """
    return _whole(_labels_task(use_case), orders_paths, days, threads, memory_mb)


def iter_features(
    use_case: UseCase,
    orders_paths: Sequence[str],
    days: Sequence[date],
    *,
    threads: int,
    memory_mb: int,
    days_per_chunk: int = DAYS_PER_CHUNK,
) -> Iterator[tuple[list[date], pa.Table]]:
    """Compute the features of many days, a bounded number at a time.

    Yields
    ------
    tuple[list[date], pa.Table]
        The days of the chunk, ascending, and what `compute_features` returns for them.

    Notes
    -----
    Orders are loaded once; memory is the orders plus one chunk of result. Measured on 730 days of
    6,000 customers and 130,000 orders (2.2 million rows out) with two threads, peak memory of the
    process included: 1 day per chunk 16 s and 0.23 GB, 7 days 12 s and 0.28 GB, 30 days 7 s and
    0.39 GB, 120 days 7 s and 0.78 GB, 365 days 16 s and 1.7 GB.
    """
    task = _features_task(use_case)
    yield from _chunks(task, orders_paths, days, threads, memory_mb, days_per_chunk)


def iter_labels(
    use_case: UseCase,
    orders_paths: Sequence[str],
    days: Sequence[date],
    *,
    threads: int,
    memory_mb: int,
    days_per_chunk: int = DAYS_PER_CHUNK,
) -> Iterator[tuple[list[date], pa.Table]]:
    """Compute the labels of many days, a bounded number at a time; see `iter_features`."""
    task = _labels_task(use_case)
    yield from _chunks(task, orders_paths, days, threads, memory_mb, days_per_chunk)


def chunk_days(days: Sequence[date], size: int) -> list[list[date]]:
    """Cut the distinct days, ascending, into runs of at most `size`.

    >>> chunk_days([date(2026, 1, 3), date(2026, 1, 1), date(2026, 1, 2)], 2)
    [[datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)], [datetime.date(2026, 1, 3)]]
    """
    ordered = sorted(set(days))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def feature_schema(use_case: UseCase) -> pa.Schema:
    """Arrow schema of what `compute_features` returns."""
    return _features_task(use_case).schema


def label_schema(use_case: UseCase) -> pa.Schema:
    """Arrow schema of what `compute_labels` returns."""
    return _labels_task(use_case).schema


# --- one task: which SQL, which horizon, which columns -------------------------------------------


@dataclass(frozen=True)
class _Task:
    use_case: UseCase
    kind: Literal["features", "labels"]
    sql: str
    values: dict[str, Dtype]

    @property
    def path(self) -> Path:
        return self.use_case.folder / f"{self.kind}.sql"

    @property
    def key(self) -> str:
        return self.use_case.entity.key

    @property
    def returned(self) -> dict[str, Dtype]:
        """Columns the SQL must return."""
        key_dtype = self.use_case.orders.published[self.key].dtype
        return {self.key: key_dtype, "as_of": "timestamp", **self.values}

    @property
    def schema(self) -> pa.Schema:
        fields = [(name, ARROW_TYPES[dtype]) for name, dtype in self.returned.items()]
        if self.kind == "labels":
            fields.append(("known_at", INSTANT))
        return pa.schema([*fields, ("day", pa.date32())])

    def end(self, day: date) -> datetime:
        """Instant from which on orders are unknown to the rows of `day`."""
        horizon = self.use_case.label.horizon_days if self.kind == "labels" else 0
        return as_of(day) + timedelta(days=horizon)

    def instants(self, day: date) -> tuple[datetime, ...]:
        return (as_of(day), self.end(day)) if self.kind == "labels" else (as_of(day),)

    @property
    def instant_names(self) -> tuple[str, ...]:
        return ("as_of", "horizon_end") if self.kind == "labels" else ("as_of",)


def _features_task(use_case: UseCase) -> _Task:
    values: dict[str, Dtype] = {
        name: feature.dtype for name, feature in use_case.features.columns.items()
    }
    return _Task(use_case, "features", use_case.features_sql, values)


def _labels_task(use_case: UseCase) -> _Task:
    return _Task(use_case, "labels", use_case.labels_sql, {"label": "bool"})


# --- running -------------------------------------------------------------------------------------


def _whole(
    task: _Task, paths: Sequence[str], days: Sequence[date], threads: int, memory_mb: int
) -> pa.Table:
    chunks = _chunks(task, paths, days, threads, memory_mb, max(len(days), 1))
    return next((table for _, table in chunks), task.schema.empty_table())


def _chunks(
    task: _Task,
    paths: Sequence[str],
    days: Sequence[date],
    threads: int,
    memory_mb: int,
    days_per_chunk: int,
) -> Iterator[tuple[list[date], pa.Table]]:
    chunks = chunk_days(days, days_per_chunk)
    if not chunks:
        return
    orders = task.use_case.orders
    with Engine(
        paths,
        orders.published,
        orders.time,
        task.end(chunks[-1][-1]),
        threads=threads,
        memory_mb=memory_mb,
    ) as engine:
        select = engine.checked_select(task.sql, task.path)
        for chunk in chunks:
            result = _run(engine, task, select, chunk, task.end(chunk[-1]))
            _prove_no_look_ahead(engine, task, select, chunk, result)
            yield chunk, result


def _run(engine: Engine, task: _Task, select: str, days: Sequence[date], end: datetime) -> pa.Table:
    """Compute `days` from the orders before `end`, checked against the contract and sorted."""
    rows = [task.instants(day) for day in days]
    try:
        relation = engine.query(select, rows, task.instant_names, end)
        _check_columns(task, relation)
        # Decimals become doubles here, because Arrow's cast of them is off in the last digit.
        typed_columns = (
            ColumnExpression(name).cast("DOUBLE").alias(name)
            if dtype == "float64"
            else ColumnExpression(name)
            for name, dtype in task.returned.items()
        )
        found = relation.select(*typed_columns).sort("as_of", task.key)
        table = found.to_arrow_table()
    except duckdb.Error as error:
        raise ConfigError(f"{task.path} fails: {error}") from error
    typed = {name: _cast(task, table, name, dtype) for name, dtype in task.returned.items()}
    _check_rows(task, typed, days)
    one_day = pa.scalar(timedelta(days=1), pa.duration("us"))
    day = pc.subtract(typed["as_of"], one_day).cast(pa.date32())
    known_at = []
    if task.kind == "labels":
        horizon = timedelta(days=task.use_case.label.horizon_days)
        known_at = [pc.add(typed["as_of"], pa.scalar(horizon, pa.duration("us")))]
    return pa.table([*typed.values(), *known_at, day], schema=task.schema)


def _check_columns(task: _Task, relation: duckdb.DuckDBPyRelation) -> None:
    expected, found = list(task.returned), list(relation.columns)
    if sorted(found) != sorted(expected):
        raise ConfigError(
            f"{task.path} returns the wrong columns: missing {sorted(set(expected) - set(found))}, "
            f"unexpected {sorted(set(found) - set(expected))}. Expected exactly {expected}; found "
            f"{found}. Mend the SELECT or the columns in use_case.yaml."
        )
    for name, kind in zip(found, relation.types, strict=True):
        if kind.id not in _ACCEPTED[task.returned[name]]:
            raise ConfigError(
                f"{task.path}: {name} is {kind}; expected something that is "
                f"{task.returned[name]} without guessing. Cast it in the SELECT."
            )


def _cast(task: _Task, table: pa.Table, name: str, dtype: Dtype) -> pa.ChunkedArray:
    column = table[name]
    try:
        if dtype == "int64" and pa.types.is_decimal(column.type):
            # By way of whole decimals: rescaling refuses what the direct cast cuts off.
            column = column.cast(pa.decimal128(38, 0))
        return column.cast(ARROW_TYPES[dtype])
    except pa.ArrowInvalid as error:
        raise ConfigError(
            f"{task.path}: {name} has values that are not {dtype}: {error}. Round or cast it in "
            "the SELECT, or declare another dtype in use_case.yaml."
        ) from error


def _check_rows(task: _Task, typed: dict[str, pa.ChunkedArray], days: Sequence[date]) -> None:
    required = [task.key, "as_of", *(["label"] if task.kind == "labels" else [])]
    for name in required:
        if typed[name].null_count:
            raise ConfigError(
                f"{task.path}: {name} is null in {typed[name].null_count} rows; expected a value "
                "in every row."
            )
    instants, keys = typed["as_of"].combine_chunks(), typed[task.key].combine_chunks()
    strays = set(pc.unique(instants).to_pylist()) - {as_of(day) for day in days}
    if strays:
        raise ConfigError(
            f"{task.path} returns as_of {min(strays).isoformat()}, which was not asked for "
            f"({len(strays)} such values). Expected as_of to come unchanged from as_of_days."
        )
    if len(keys) > 1:
        # The rows are sorted, so equal pairs are neighbours.
        repeated = pc.and_(pc.equal(keys[1:], keys[:-1]), pc.equal(instants[1:], instants[:-1]))
        if count := pc.sum(repeated).as_py():
            row = pc.index(repeated, True).as_py()
            raise ConfigError(
                f"{task.path} returns {count} repeated pairs of {task.key} and as_of, the first "
                f"being {keys[row]!s} at {instants[row]!s}. Expected one row per pair: GROUP BY "
                "both."
            )


def _prove_no_look_ahead(
    engine: Engine, task: _Task, select: str, days: Sequence[date], result: pa.Table
) -> None:
    what = list(task.values)
    # The last day is honest by construction: no order after its end is visible.
    for day in sorted({days[0], days[len(days) // 2]} - {days[-1]}):
        among = result.filter(pc.equal(result["day"], pa.scalar(day)))
        alone = _run(engine, task, select, [day], task.end(day))
        require_equal(task.path, day, task.key, what, among, alone)
    if task.kind == "labels":
        # Who is asked about must be known at as_of; only the answer may wait for the horizon.
        among = result.filter(pc.equal(result["day"], pa.scalar(days[0])))
        known = _run(engine, task, select, [days[0]], as_of(days[0]))
        require_equal(task.path, days[0], task.key, [], among, known)
