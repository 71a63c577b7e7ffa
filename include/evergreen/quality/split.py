"""Splits raw rows into accepted, quarantined, exact duplicates and erased; loses none.

The raw table is text. It is staged once in DuckDB in the order (day, source, row), so that "the
first of several equal rows" means the same whatever the order or number of files, and a day comes
out the same whether it is split alone or among many.
"""

# SQL is composed here. Identifiers come from the validated use case or are quoted, values are bound
# or written as escaped literals; rows only ever arrive as a registered table.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta

import duckdb
import pyarrow as pa

from evergreen.contract import AnyTable, Events
from evergreen.errors import ConservationError
from evergreen.provenance.erased import Suppressed
from evergreen.quality.batch import Batch
from evergreen.quality.judging import judge
from evergreen.quality.parsing import check_columns
from evergreen.quality.rollup import roll_up
from evergreen.quality.schemas import counts_schema, quarantine_schema, table_schema
from evergreen.quality.suppression import suppress
from evergreen.sql.connection import opened
from evergreen.sql.text import literal, quote


@dataclass(frozen=True)
class Split:
    """What became of the rows of the days asked for.

    Parameters
    ----------
    accepted
        `table_schema(table)`, ordered by day, time and key; after the roll-up if there is one.
    quarantined
        `quarantine_schema()`, ordered by day, source and row.
    counts
        `counts_schema()`, one row per day asked for, also for days without rows.
        `rows_in = accepted + quarantined + duplicates + erased` holds on each.
    by_rule
        Quarantined rows per broken rule, most frequent first; a row may break several.
    excluded
        Rows that belong to days not asked for.
    """

    accepted: pa.Table
    quarantined: pa.Table
    counts: pa.Table
    by_rule: dict[str, int]
    excluded: int


def split_rows(
    table: AnyTable,
    raw: pa.Table,
    start: date,
    end: date,
    *,
    threads: int = 2,
    memory_mb: int = 1500,
    erased: Suppressed | None = None,
) -> Split:
    """Map, judge, roll up and count the raw rows of the days `[start, end)`.

    Parameters
    ----------
    table
        Its contract.
    raw
        Source columns as text, any number of them, and `_day` (date32, the day of the file or
        null), `_source` (string), `_row` (int64; with `_source` it identifies a row), `_error`
        and `_text` (string: why the row is not made of columns, and what it is made of).
        Not modified.
    start, end
        Days of the zone, `end` excluded.
    threads, memory_mb
        Limits of DuckDB.
    erased
        Whose rows are counted and nothing else; by default nobody's.

    Raises
    ------
    ConfigError
        The table's SQL, formats or patterns are wrong, or `start >= end`.
    SourceError
        A column the contract maps from is not among the source's columns.
    ConservationError
        The counts do not add up; nothing of this split may be published.

    Notes
    -----
    A row belongs to `_day` if that is given, else to the local day of its time. Rows without
    either, and rows dated before the first day, belong to the first day, and rows dated after the
    last day (if one is declared) to that day. Events are quarantined there; so a file of many days
    never loses them.
    """
    with connect(threads, memory_mb, table.setting.zone) as connection:
        batch = Batch(connection, table, raw, start, end, threads)
        check_columns(connection, table)
        batch.stage()
        judge(batch)
        rolled = isinstance(table, Events) and table.rollup is not None
        if isinstance(table, Events) and table.rollup is not None:
            roll_up(batch, table.rollup)
        suppress(batch, erased or Suppressed(), rolled=rolled)
        return _collect(batch, rolled=rolled)


def select_days(
    table: AnyTable, raw: pa.Table, start: date, end: date, *, threads: int = 2
) -> pa.Table:
    """Keep the raw rows that belong to the days `[start, end)`, as `split_rows` will see it.

    For sources whose files hold many days: chunk after chunk of such a file is reduced to what is
    wanted before the chunks are put together, which bounds memory by the days asked for.

    Parameters
    ----------
    raw
        As for `split_rows`. Not modified.
    """
    if not raw.column("_day").null_count:
        return raw
    with connect(threads, 1500, table.setting.zone) as connection:
        return raw.filter(Batch(connection, table, raw, start, end, threads).belonging())


@contextmanager
def connect(threads: int, memory_mb: int, zone: str = "UTC") -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB in which the use case's SQL sees the rows and nothing else.

    `zone` is what it takes the date and the hour of an instant by.
    """
    with opened("split", threads=threads, memory_mb=memory_mb) as connection:
        connection.execute(f"SET TimeZone = {literal(zone)}")
        connection.execute("SET enable_external_access = false")
        yield connection


def _collect(batch: Batch, *, rolled: bool) -> Split:
    """Order and type what each row came to."""
    table = batch.table
    published = [quote(name) for name in table.published]
    order = ", ".join(quote(name) for name in (table.time, table.row_key) if name)
    columns = ", ".join(f"o.{name}" for name in published)
    if not rolled:
        origin = "staged AS o INNER JOIN judged AS j ON o.rowid = j.n WHERE len(j.rules) = 0"
        lines, row_id = "1", _row_id("o")
    else:
        origin = "rolled AS o WHERE len(o.rules) = 0"
        lines = 'o."~lines"'
        key = f"o.{quote(table.row_key or '')}"
        row_id = f"md5(CAST(o.\"~belongs\" AS VARCHAR) || '|' || CAST({key} AS VARCHAR))"
    batch.run(
        f'CREATE TABLE accepted AS SELECT {columns}, o."~belongs" AS "~day",',
        f'{row_id} AS "~row_id", o."~source", {lines} AS "~lines" FROM {origin}',
    )
    raw_json = ", ".join(
        f"{literal(name)}, o.{quote(internal)}" for name, internal in batch.delivered.items()
    )
    batch.run(
        'CREATE TABLE quarantined AS SELECT o."~belongs" AS day,',
        f'{literal(table.name)} AS "table",',
        f"{_row_id('o')} AS row_id,",
        'o."~source" AS source, o."~row" AS row, j.rules, CAST(CASE',
        "WHEN o.\"~error\" IS NOT NULL THEN json_object('_error', o.\"~error\", '_text',",
        f'o."~text") ELSE json_object({raw_json}) END AS VARCHAR) AS raw',
        "FROM staged AS o INNER JOIN judged AS j ON o.rowid = j.n WHERE len(j.rules) > 0",
        "ORDER BY o.rowid",
    )
    accepted = batch.rows(
        f'SELECT {", ".join(published)}, "~day" AS day, "~row_id" AS row_id,',
        f'"~source" AS source FROM accepted ORDER BY "~day"{order and ", "}{order}, "~row_id"',
        schema=table_schema(table),
    )
    rules = batch.connection.execute(
        "SELECT rule, count(*) FROM (SELECT unnest(rules) AS rule FROM quarantined) "
        "GROUP BY rule ORDER BY count(*) DESC, rule"
    ).fetchall()
    return Split(
        accepted=accepted,
        quarantined=batch.rows("SELECT * FROM quarantined", schema=quarantine_schema()),
        counts=_counts(batch),
        by_rule=dict(rules),
        excluded=batch.raw.num_rows - batch.scalar("SELECT count(*) FROM staged"),
    )


def _counts(batch: Batch) -> pa.Table:
    """Count each side of the law from its own table, and hold the law."""
    last = batch.end - timedelta(days=1)
    time = batch.table.time
    newest = f"max(CAST({quote(time)} AS TIMESTAMPTZ))" if time else "CAST(NULL AS TIMESTAMPTZ)"
    counts = batch.rows(
        "WITH days AS (SELECT CAST(unnest(generate_series($start, $last, INTERVAL 1 DAY))",
        "AS DATE) AS day),",
        'came AS (SELECT "~belongs" AS day, count(*) AS rows_in FROM staged GROUP BY ALL),',
        'passed AS (SELECT "~day" AS day, CAST(sum("~lines") AS BIGINT) AS accepted,',
        f"count(*) AS published, {newest} AS newest_at FROM accepted GROUP BY ALL),",
        "held AS (SELECT day, count(*) AS quarantined FROM quarantined GROUP BY ALL),",
        'twice AS (SELECT "~belongs" AS day, count(*) AS duplicates FROM staged AS s',
        "ANTI JOIN kept AS k ON s.rowid = k.n ANTI JOIN erased AS e ON s.rowid = e.n",
        "GROUP BY ALL),",
        'hidden AS (SELECT "~belongs" AS day, count(*) AS erased FROM erased GROUP BY ALL)',
        "SELECT day, coalesce(rows_in, 0), coalesce(accepted, 0), coalesce(quarantined, 0),",
        "coalesce(duplicates, 0), coalesce(published, 0), coalesce(erased, 0), newest_at FROM days",
        "LEFT JOIN came USING (day) LEFT JOIN passed USING (day) LEFT JOIN held USING (day)",
        "LEFT JOIN twice USING (day) LEFT JOIN hidden USING (day) ORDER BY day",
        schema=counts_schema(),
        start=batch.start,
        last=last,
    )
    for day in counts.to_pylist():
        out = day["accepted"] + day["quarantined"] + day["duplicates"] + day["erased"]
        if day["rows_in"] != out:
            raise ConservationError(
                f"{batch.table.where}, {day['day']}: {day['rows_in']} rows in, but "
                f"{day['accepted']} accepted + {day['quarantined']} quarantined + "
                f"{day['duplicates']} duplicates + {day['erased']} erased = {out}. Nothing was "
                "published; this is a defect of the split, please report it with the day's "
                "source file."
            )
    return counts


def _row_id(alias: str) -> str:
    """Stable over runs: where the row came from, not where it ended up."""
    row = f'CAST({alias}."~row" AS VARCHAR)'
    return f"md5(coalesce({alias}.\"~source\", '') || '|' || coalesce({row}, ''))"
