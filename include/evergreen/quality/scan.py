"""Judges a large table: DuckDB counts what breaks each expectation, Great Expectations judges.

Great Expectations computes its metrics one by one over a pandas copy of the table. Here one scan of
the staged file counts the rows that break any of them, a second looks for repeated keys, and only
for what is broken a few examples are looked up. The verdict, its numbers and its page are made by
Great Expectations from these metrics as it would make them from its own.
"""

# SQL is composed here, of the names of columns that exist and bounds from the validated use case.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import great_expectations.expectations as gxe
import pyarrow as pa
import pyarrow.dataset as ds
from great_expectations.core import ExpectationValidationResult
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import Expectation

from evergreen.sql.text import literal, quote


@dataclass(frozen=True)
class Scanned:
    """What was found.

    Parameters
    ----------
    results
        One per expectation, in order.
    rows_by_instant
        Number of rows per `as_of`; the key None counts rows without.
    """

    results: list[ExpectationValidationResult]
    rows_by_instant: Mapping[datetime | None, int]


@dataclass(frozen=True)
class _Condition:
    """Which rows an expectation is about, and which of them break it; `null` is of its columns."""

    columns: tuple[str, ...]
    null: str
    broken: str


def scan(
    connection: duckdb.DuckDBPyConnection,
    rows: pa.Table | ds.Dataset,
    expected: Sequence[Expectation],
    result_format: Mapping[str, Any],
) -> Scanned:
    """Judge the rows of a table, which has a column `as_of`.

    Parameters
    ----------
    rows
        Not modified; of a dataset, no more than a few batches are in memory at once.
    expected
        Of columns: not null, between bounds, one of some texts, unique together.
    result_format
        As Great Expectations takes it.

    Notes
    -----
    NaN is an absent value, as pandas has it. Costs two scans of the file, and one more per broken
    expectation.
    """
    connection.register("scanned", rows)
    schema = rows.schema
    conditions = [_condition(expectation, schema) for expectation in expected]
    counted = [f"count_if({part})" for c in conditions for part in (c.null, c.broken)]
    # One row per day: sums of them are the table's, and their sizes are asked for, too.
    groups = connection.sql(
        f"SELECT as_of, count(*), {', '.join(counted)} FROM scanned GROUP BY as_of"
    ).to_arrow_table()
    sums = [int(sum(column.to_pylist())) for column in groups.columns[1:]]
    total, found = sums[0], zip(sums[1::2], sums[2::2], strict=True)
    engine = PandasExecutionEngine()
    results = []
    for expectation, condition, (null, broken) in zip(expected, conditions, found, strict=True):
        if isinstance(expectation, gxe.ExpectCompoundColumnsToBeUnique):
            broken = _repeated(connection, condition)
        label = list(result_format["unexpected_index_column_names"])
        some = _examples(connection, condition, label, result_format) if broken else []
        names = condition.columns
        values = {
            "table.row_count": total,
            "column_values.nonnull.unexpected_count": null,
            "filtered_row_count": total - null,
            "unexpected_count": broken,
            "unexpected_values": (
                [row[names[0]] for row in some]
                if len(names) == 1
                else [{name: row[name] for name in names} for row in some]
            ),
            "unexpected_index_list": some,
            "unexpected_index_query": None,
        }
        configuration = {"result_format": dict(result_format)}
        needed = expectation.get_validation_dependencies(engine, configuration)
        metrics = {
            metric.id: values.get(name, values.get(name.rpartition(".")[2]))
            for name, metric in needed.metric_configurations.items()
        }
        results.append(expectation.metrics_validate(metrics, configuration, engine))
    by_instant = dict(zip(groups["as_of"].to_pylist(), groups.column(1).to_pylist(), strict=True))
    return Scanned(results, by_instant)


def _condition(expectation: Expectation, schema: pa.Schema) -> _Condition:
    kwargs = expectation.configuration.kwargs
    if isinstance(expectation, gxe.ExpectCompoundColumnsToBeUnique):
        columns = tuple(kwargs["column_list"])
        absent = " AND ".join(f"{quote(name)} IS NULL" for name in columns)
        return _Condition(columns, absent, "false")
    name = kwargs["column"]
    column = quote(name)
    null = f"{column} IS NULL"
    if pa.types.is_floating(schema.field(name).type):
        null = f"({null} OR isnan({column}))"
    if isinstance(expectation, gxe.ExpectColumnValuesToNotBeNull):
        return _Condition((name,), null, null)
    if isinstance(expectation, gxe.ExpectColumnValuesToBeBetween):
        bounds = [
            f"{column} {sign} CAST({kwargs[bound]!r} AS DOUBLE)"
            for bound, sign in (("min_value", "<"), ("max_value", ">"))
            if kwargs.get(bound) is not None
        ]
        return _Condition((name,), null, f"NOT {null} AND ({' OR '.join(bounds)})")
    if isinstance(expectation, gxe.ExpectColumnValuesToBeInSet):
        allowed = ", ".join(literal(value) for value in kwargs["value_set"])
        return _Condition((name,), null, f"NOT {null} AND {column} NOT IN ({allowed})")
    raise TypeError(f"{type(expectation).__name__} cannot be judged by a scan")


def _repeated(connection: duckdb.DuckDBPyConnection, condition: _Condition) -> int:
    names = ", ".join(map(quote, condition.columns))
    (found,) = connection.execute(
        f"SELECT coalesce(sum(n), 0) FROM (SELECT count(*) AS n FROM scanned "
        f"WHERE NOT ({condition.null}) GROUP BY {names} HAVING count(*) > 1)"
    ).fetchall()
    return int(found[0])


def _examples(
    connection: duckdb.DuckDBPyConnection,
    condition: _Condition,
    label: Sequence[str],
    result_format: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return the first rows that break the condition: its columns, and what names a row."""
    broken = condition.broken
    if len(condition.columns) > 1:
        names = ", ".join(map(quote, condition.columns))
        broken = (
            f"NOT ({condition.null}) AND hash({names}) IN "
            f"(SELECT hash({names}) FROM scanned GROUP BY {names} HAVING count(*) > 1)"
        )
    shown = ", ".join(map(quote, dict.fromkeys([*condition.columns, *label])))
    rows = connection.sql(
        # Any order will do, as long as it is the same each time.
        f"SELECT {shown} FROM scanned WHERE {broken} ORDER BY as_of, {shown} LIMIT $n",
        params={"n": result_format["partial_unexpected_count"]},
    ).to_arrow_table()
    listed: list[dict[str, Any]] = rows.to_pylist()
    return listed
