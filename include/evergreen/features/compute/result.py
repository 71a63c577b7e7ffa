"""What `features.sql` and `labels.sql` must return, and the check that they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import ColumnExpression

from evergreen.contract import NAMES, UseCase, arrow
from evergreen.contract.dtypes import AnyDtype
from evergreen.errors import ConfigError
from evergreen.sql.shards import WHOLE, Shard

INSTANT = arrow("timestamp")
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Task:
    """Which SQL, which horizon, which columns."""

    use_case: UseCase
    kind: Literal["features", "labels"]
    sql: str
    values: dict[str, AnyDtype]
    shard: Shard = WHOLE

    @property
    def path(self) -> Path:
        """The SQL file, for messages."""
        if self.kind == "features":
            return self.use_case.features_path
        return self.use_case.folder / "labels.sql"

    @property
    def key(self) -> str:
        """The entity's column."""
        return self.use_case.entity.key

    @property
    def returned(self) -> dict[str, AnyDtype]:
        """Columns the SQL must return."""
        return {self.key: self.use_case.key_dtype, "as_of": "timestamp", **self.values}

    @property
    def schema(self) -> pa.Schema:
        """Of the finished table."""
        fields = [(name, arrow(dtype)) for name, dtype in self.returned.items()]
        if self.kind == "labels":
            fields.append(("known_at", INSTANT))
        return pa.schema([*fields, ("day", pa.date32())])

    def end(self, day: date) -> date:
        """First day that is unknown to the rows of `day`."""
        horizon = self.use_case.target.horizon_days if self.kind == "labels" else 0
        return day + timedelta(days=1 + horizon)

    def instants(self, day: date) -> tuple[datetime, ...]:
        """Row of `as_of_days`: local midnights, without a zone."""
        ends = [day + _ONE_DAY, *([self.end(day)] if self.kind == "labels" else [])]
        return tuple(datetime.combine(end, time()) for end in ends)

    @property
    def instant_names(self) -> tuple[str, ...]:
        """Columns of `as_of_days`."""
        return ("as_of", "horizon_end") if self.kind == "labels" else ("as_of",)


def features_task(use_case: UseCase, shard: Shard = WHOLE) -> Task:
    """Return what `features.sql` is to do."""
    values: dict[str, AnyDtype] = {
        name: feature.dtype for name, feature in use_case.features.columns.items()
    }
    return Task(use_case, "features", use_case.features_sql, values, shard)


def labels_task(use_case: UseCase, shard: Shard = WHOLE) -> Task:
    """Return what `labels.sql` is to do."""
    values: dict[str, AnyDtype] = {"label": use_case.target.label_dtype}
    return Task(use_case, "labels", use_case.labels_sql, values, shard)


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
    midnights, codes = _encoded(typed["as_of"])
    of = [midnight.as_py().date() - _ONE_DAY for midnight in midnights]
    day = pa.array(of, pa.date32()).take(codes)
    instants = [task.use_case.as_of(found) for found in of]
    typed["as_of"] = pa.array(instants, INSTANT).take(codes)
    known_at = []
    if task.kind == "labels":
        horizon = timedelta(days=task.use_case.target.horizon_days)
        known = [task.use_case.as_of(found + horizon) for found in of]
        known_at = [pa.array(known, INSTANT).take(codes)]
    return pa.table([*typed.values(), *known_at, day], schema=task.schema)


def _encoded(column: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """Return the distinct values of a column, and for each row which of them it is."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary, encoded.indices


def _check_columns(task: Task, relation: duckdb.DuckDBPyRelation) -> None:
    expected, found = list(task.returned), list(relation.columns)
    if sorted(found) != sorted(expected):
        raise ConfigError(
            f"{task.path} returns the wrong columns: missing {sorted(set(expected) - set(found))}, "
            f"unexpected {sorted(set(found) - set(expected))}. Expected exactly {expected}; found "
            f"{found}. Mend the SELECT or the columns in use_case.yaml."
        )
    for name, kind in zip(found, relation.types, strict=True):
        if kind.id not in NAMES[task.returned[name]].returned:
            raise ConfigError(
                f"{task.path}: {name} is {kind}; expected something that is "
                f"{task.returned[name]} without guessing. Cast it in the SELECT."
            )


def _cast(task: Task, table: pa.Table, name: str, dtype: AnyDtype) -> pa.ChunkedArray:
    column = table[name]
    try:
        if dtype == "int64" and pa.types.is_decimal(column.type):
            # By way of whole decimals: rescaling refuses what the direct cast cuts off.
            column = column.cast(pa.decimal128(38, 0))
        # The SQL speaks in the wall clock of the zone; `finish` turns as_of into an instant.
        return column.cast(pa.timestamp("us") if dtype == "timestamp" else arrow(dtype))
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
    strays = set(pc.unique(instants).to_pylist()) - {task.instants(day)[0] for day in days}
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
