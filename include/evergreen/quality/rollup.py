"""Rolls clean line items up to rows of their table."""

# SQL is composed here. Identifiers come from the validated use case or are quoted, values are bound
# or written as escaped literals; rows only ever arrive as a registered table.
# ruff: noqa: S608

from __future__ import annotations

import duckdb

from evergreen.contract import NAMES, Column, RollUp
from evergreen.errors import ConfigError
from evergreen.quality.batch import Batch
from evergreen.quality.parsing import checks
from evergreen.sql.expressions import check_expression
from evergreen.sql.text import literal, quote


def roll_up(batch: Batch, rollup: RollUp) -> None:
    """Make `rolled`: one row per key and day of the clean rows, itself held to the contract."""
    table = batch.table
    key = quote(rollup.key)
    columns = ", ".join(f"s.{quote(name)}" for name in table.columns)
    batch.run(
        f'CREATE TABLE clean AS SELECT {columns}, s."~belongs", s."~source", s.rowid AS "~n"',
        "FROM staged AS s INNER JOIN judged AS j ON s.rowid = j.n WHERE len(j.rules) = 0",
        "ORDER BY s.rowid",
    )
    for name, sql in rollup.aggregates.items():
        check_expression(
            batch.connection,
            table,
            kind="aggregate",
            name=name,
            sql=sql,
            relation="clean",
            group_by=key,
        )
    aggregates = ", ".join(
        f'{sql}\n AS "~a{i}"' for i, sql in enumerate(rollup.aggregates.values())
    )
    _aggregate_by_day(
        batch,
        f'SELECT "~belongs", {key}, count(*) AS "~lines", min("~source") AS "~source", '
        f'{aggregates} FROM clean WHERE "~belongs" = $day GROUP BY "~belongs", {key}',
        rollup.aggregates,
    )
    typed, broken = [], []
    for i, name in enumerate(rollup.aggregates):
        column = table.published[name]
        value, not_finite = _typed_aggregate(f'"~a{i}"', column)
        typed.append(f'{value} AS {quote(name)}, {not_finite} AS "~n{i}"')
        broken += checks(
            name,
            column,
            value=quote(name),
            given=f'"~a{i}" IS NOT NULL',
            not_finite=f'"~n{i}"',
            required=not column.nullable or name in table.required,
        )
    broken.append(("outside_day", f'CAST({quote(table.time or "")} AS DATE) <> "~belongs"'))
    listed = ", ".join(f"CASE WHEN {when} THEN {literal(rule)} END" for rule, when in broken)
    batch.run(
        f"CREATE TABLE rolled AS SELECT *, list_sort(list_distinct([{listed}])) AS rules",
        f"FROM (SELECT *, {', '.join(typed)} FROM aggregated)",
    )
    # A row that breaks the contract takes its line items with it into quarantine.
    batch.run(
        "UPDATE judged SET rules = r.rules FROM clean AS c, rolled AS r",
        'WHERE judged.n = c."~n" AND len(r.rules) > 0',
        f'AND c."~belongs" = r."~belongs" AND c.{key} = r.{key}',
    )


def _aggregate_by_day(batch: Batch, select: str, aggregates: dict[str, str]) -> None:
    """Make `aggregated`, day by day and on one thread.

    Sums of floats depend on the order and grouping of their terms. This way both depend on
    the day's rows alone, and a day rolls up to the same bytes alone or among many.
    """
    run = batch.connection.execute
    days = run('SELECT DISTINCT "~belongs" FROM clean ORDER BY ALL').fetchall()
    run("SET threads = 1")
    try:
        run(f"CREATE TABLE aggregated AS {select} LIMIT 0", {"day": batch.start})
        for (day,) in days:
            run(f"INSERT INTO aggregated {select}", {"day": day})
    except duckdb.Error as error:
        raise ConfigError(
            f"{batch.table.where}.rollup.aggregates failed on the data; a cast to DOUBLE often "
            f"mends it. Found {aggregates}. DuckDB: {error}"
        ) from error
    finally:
        run(f"SET threads = {int(batch.threads)}")


def _typed_aggregate(aggregate: str, column: Column) -> tuple[str, str]:
    """Cast an aggregate to its declared type without rounding or raising."""
    cast = f"TRY_CAST({aggregate} AS {NAMES[column.dtype].parsed})"
    if column.dtype == "float64":
        finite = f"isfinite({cast})"
        return f"CASE WHEN {finite} THEN {cast} END", f"coalesce(NOT {finite}, false)"
    if column.dtype == "int64":
        # DuckDB's cast rounds; 12.5 is not a whole number.
        return f"CASE WHEN {cast} = {aggregate} THEN {cast} END", "false"
    return cast, "false"
