"""What `features.sql` and `labels.sql` must return, and the check that they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import ColumnExpression

from evergreen.contract import Dtype, UseCase, as_of
from evergreen.errors import ConfigError

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


@dataclass(frozen=True)
class Task:
    """Which SQL, which horizon, which columns."""

    use_case: UseCase
    kind: Literal["features", "labels"]
    sql: str
    values: dict[str, Dtype]

    @property
    def path(self) -> Path:
        """The SQL file, for messages."""
        return self.use_case.folder / f"{self.kind}.sql"

    @property
    def key(self) -> str:
        """The entity's column."""
        return self.use_case.entity.key

    @property
    def returned(self) -> dict[str, Dtype]:
        """Columns the SQL must return."""
        key_dtype = self.use_case.orders.published[self.key].dtype
        return {self.key: key_dtype, "as_of": "timestamp", **self.values}

    @property
    def schema(self) -> pa.Schema:
        """Of the finished table."""
        fields = [(name, ARROW_TYPES[dtype]) for name, dtype in self.returned.items()]
        if self.kind == "labels":
            fields.append(("known_at", INSTANT))
        return pa.schema([*fields, ("day", pa.date32())])

    def end(self, day: date) -> datetime:
        """Instant from which on orders are unknown to the rows of `day`."""
        horizon = self.use_case.label.horizon_days if self.kind == "labels" else 0
        return as_of(day) + timedelta(days=horizon)

    def instants(self, day: date) -> tuple[datetime, ...]:
        """Row of `as_of_days`."""
        return (as_of(day), self.end(day)) if self.kind == "labels" else (as_of(day),)

    @property
    def instant_names(self) -> tuple[str, ...]:
        """Columns of `as_of_days`."""
        return ("as_of", "horizon_end") if self.kind == "labels" else ("as_of",)


def features_task(use_case: UseCase) -> Task:
    """Return what `features.sql` is to do."""
    values: dict[str, Dtype] = {
        name: feature.dtype for name, feature in use_case.features.columns.items()
    }
    return Task(use_case, "features", use_case.features_sql, values)


def labels_task(use_case: UseCase) -> Task:
    """Return what `labels.sql` is to do."""
    return Task(use_case, "labels", use_case.labels_sql, {"label": "bool"})


def finish(task: Task, relation: duckdb.DuckDBPyRelation, days: Sequence[date]) -> pa.Table:
    """Run a bound SELECT and check it against the contract.

    Returns
    -------
    pa.Table
        In the task's schema, sorted by (`as_of`, key).

    Raises
    ------
    ConfigError
        Its result breaks the contract.
    duckdb.Error
        The SELECT fails.
    """
    _check_columns(task, relation)
    # Decimals become doubles here, because Arrow's cast of them is off in the last digit.
    typed_columns = (
        ColumnExpression(name).cast("DOUBLE").alias(name)
        if dtype == "float64"
        else ColumnExpression(name)
        for name, dtype in task.returned.items()
    )
    table = relation.select(*typed_columns).sort("as_of", task.key).to_arrow_table()
    typed = {name: _cast(task, table, name, dtype) for name, dtype in task.returned.items()}
    _check_rows(task, typed, days)
    one_day = pa.scalar(timedelta(days=1), pa.duration("us"))
    day = pc.subtract(typed["as_of"], one_day).cast(pa.date32())
    known_at = []
    if task.kind == "labels":
        horizon = timedelta(days=task.use_case.label.horizon_days)
        known_at = [pc.add(typed["as_of"], pa.scalar(horizon, pa.duration("us")))]
    return pa.table([*typed.values(), *known_at, day], schema=task.schema)


def _check_columns(task: Task, relation: duckdb.DuckDBPyRelation) -> None:
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


def _cast(task: Task, table: pa.Table, name: str, dtype: Dtype) -> pa.ChunkedArray:
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


def _check_rows(task: Task, typed: dict[str, pa.ChunkedArray], days: Sequence[date]) -> None:
    required = [task.key, "as_of", *(["label"] if task.kind == "labels" else [])]
    for name in required:
        if typed[name].null_count:
            raise ConfigError(
                f"{task.path}: {name} is null in {typed[name].null_count} rows; expected a value "
                "in every row."
            )
    for name, dtype in task.values.items():
        if dtype != "float64":
            continue
        infinite = pc.invert(pc.is_finite(typed[name]))
        if count := pc.sum(infinite).as_py():
            row = pc.index(infinite, True).as_py()
            raise ConfigError(
                f"{task.path}: {name} is {typed[name][row]} in {count} of {len(infinite)} rows, "
                f"the first being {task.key} {typed[task.key][row]} at {typed['as_of'][row]}. "
                "Expected a finite number, or NULL where there is none: divide by nullif(..., 0), "
                "and declare the feature nullable."
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
