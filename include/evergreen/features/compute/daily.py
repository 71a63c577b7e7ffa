"""The relation `<table>_daily`: what each entity did on each day, old days merged into one row.

Events are summed by entity and day while they are read, and days before a boundary are merged
by the declared `merge`s. So a day's features need the days since the boundary and one row per
entity, whatever the length of the history.

Merging is exact. Sums are integers or decimals, whose value does not depend on the order of
additions, and minima and maxima are; integers are BIGINT and decimals have 38 digits, merged or
not, so a type never depends on where the boundary lies, and what does not fit is an error.
"""

# The aggregates come from the use case and are judged here before they are run.
# ruff: noqa: S608

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import date

import duckdb
import pyarrow as pa

from evergreen.contract import NAMES, Events, arrow
from evergreen.errors import ConfigError
from evergreen.features.compute.engine import Engine
from evergreen.features.compute.past import Given, Totals, read_table, where
from evergreen.sql.connection import limited
from evergreen.sql.expressions import check_expression
from evergreen.sql.shards import WHOLE, Shard
from evergreen.sql.syntax import walk

# Whatever the order of the rows and the number of threads, these give the same bits.
_ORDER_FREE = {"count", "count_star", "count_if", "sum", "min", "max", "bool_and", "bool_or"}
_INTEGER = re.compile(r"^U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)$")
_DECIMAL = re.compile(r"^DECIMAL\(\d+,(\d+)\)$")
_ARROW_TYPES = {
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.string(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
    # The wall clock of the use case's zone.
    "TIMESTAMP": pa.timestamp("us"),
}


class DailyRows:
    """A table of events as days of entities; see `evergreen.features.compute.past.Past`.

    Parameters
    ----------
    table
        Its contract, with its section `daily`.
    given
        Its files, which may hold days before the totals' boundary: those are left out.
    end
        Later days are not loaded.

    Notes
    -----
    Cost O(events in the files + entities); memory is one row per entity and day with events.
    """

    def __init__(self, table: Events, given: Given, end: date) -> None:
        if table.daily is None:
            raise ValueError(f"{table.where} declares no daily")
        self.table, self._columns = table, table.daily.columns
        self._key = table.entity_key
        self._given, self._end = given, end
        self.relation, self.stored = f"{table.name}_daily", f"{table.name}_days"
        self._merged_table = f"{table.name}_merged"
        # Days before it are in the merged table, the others in the stored one.
        self._before = given.totals.before if given.totals else date.min
        self._types: dict[str, str] = {}

    def load(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Judge the aggregates, then run them while the files are read."""
        rows = read_table(connection, self.table, self._given, self._end)
        self._types = column_types(connection, self.table)
        key_type = NAMES[self.table.published[self._key].dtype].sql
        typed = {self._key: key_type, "day": "DATE", **self._types}
        declared = ", ".join(f'"{name}" {kind}' for name, kind in typed.items())
        for name in (self.stored, self._merged_table):
            connection.execute(f"CREATE TABLE {name} ({declared})")
        listed = ", ".join(
            f'CAST(({self._columns[name].sql}\n) AS {kind}) AS "{name}"'
            for name, kind in self._types.items()
        )
        rows.create_view("rows_read")
        self._run(
            connection,
            f'INSERT INTO {self.stored} SELECT "{self._key}", day, {listed} FROM rows_read '
            f"WHERE day >= '{self._before}' "
            + f'GROUP BY "{self._key}", day ORDER BY day, "{self._key}"',
        )
        connection.execute("DROP VIEW rows_read")
        if self._given.totals is not None:
            stored = ", ".join(
                f'CAST("{"last_day" if name == "day" else name}" AS {kind})'
                for name, kind in typed.items()
            )
            connection.register("totals_read", self._given.totals.rows)
            connection.execute(
                f"INSERT INTO {self._merged_table} SELECT {stored} FROM totals_read "
                f"WHERE {where(self._given.shard, self.table)}"
            )
            connection.unregister("totals_read")

    def show(
        self, connection: duckdb.DuckDBPyConnection, end: date, boundary: date | None, shard: Shard
    ) -> None:
        """Point the relation at the days before `end`, those before `boundary` merged."""
        boundary = self._checked(boundary)
        connection.execute(
            f"CREATE OR REPLACE VIEW {self.relation} AS {self._merged(boundary, shard)} UNION ALL "
            f"SELECT * FROM {self.stored} WHERE day >= '{boundary}' AND day < '{end}' "
            f"AND {where(shard, self.table)}"
        )

    def merge(self, connection: duckdb.DuckDBPyConnection, boundary: date) -> None:
        """Merge the days before `boundary` for good, so that later queries need not."""
        boundary = self._checked(boundary)
        self._run(
            connection,
            f"CREATE OR REPLACE TABLE {self._merged_table} AS {self._merged(boundary)}",
        )
        self._before = boundary

    def totals(self, connection: duckdb.DuckDBPyConnection) -> Totals:
        """Return what `merge` left, sorted by the entity's key."""
        schema = totals_schema(self.table, self._types)
        names = ", ".join(f'"{name}"' for name in self._types)
        merged = connection.sql(
            f'SELECT "{self._key}", day AS last_day, {names} FROM {self._merged_table} ORDER BY 1'
        )
        return Totals(self._before, merged.to_arrow_table().cast(schema))

    def _run(self, connection: duckdb.DuckDBPyConnection, sql: str) -> None:
        """Run SQL that holds the declared aggregates; what fails there is theirs."""
        where = f"{self.table.where}.daily.columns"
        try:
            with limited(connection, where):
                connection.execute(sql)
        except duckdb.Error as error:
            raise ConfigError(f"{where}: they fail on the rows: {error}") from error

    def _checked(self, boundary: date | None) -> date:
        if boundary is None or boundary == self._before:
            return self._before
        if boundary < self._before:
            raise ValueError(f"days before {self._before} are merged; they cannot end {boundary}")
        return boundary

    def _merged(self, boundary: date, shard: Shard = WHOLE) -> str:
        merges = ", ".join(
            f'CAST({self._columns[name].merge}("{name}") AS {kind}) AS "{name}"'
            for name, kind in self._types.items()
        )
        return (
            f'SELECT "{self._key}", max(day) AS day, {merges} FROM '
            f"(SELECT * FROM {self._merged_table} UNION ALL SELECT * FROM {self.stored} "
            f"WHERE day >= '{self._before}' AND day < '{boundary}') "
            f'WHERE {where(shard, self.table)} GROUP BY "{self._key}"'
        )


def iter_totals(table: Events, given: Given, boundaries: Sequence[date]) -> Iterator[Totals]:
    """Compute the totals at some boundaries, each from the one before.

    Parameters
    ----------
    given
        Totals to start from, if any, and files of the events since, up to the last boundary.
    boundaries
        Ascending, after the totals to start from.
    """
    past = DailyRows(table, given, boundaries[-1])
    with Engine([past]) as engine:
        for boundary in boundaries:
            past.merge(engine.connection, boundary)
            yield past.totals(engine.connection)


def totals_schema(table: Events, types: dict[str, str]) -> pa.Schema:
    """Arrow schema of `Totals.rows`, from what `column_types` returned."""
    key = table.entity_key
    return pa.schema(
        [
            (key, arrow(table.published[key].dtype)),
            ("last_day", pa.date32()),
            *((name, _arrow_type(kind)) for name, kind in types.items()),
        ]
    )


def column_types(connection: duckdb.DuckDBPyConnection, table: Events) -> dict[str, str]:
    """Judge the columns of a table's `daily`, and say of which DuckDB type each is.

    Raises
    ------
    ConfigError
        One is no aggregate over the rows, depends on the order of rows, or cannot be merged
        exactly.
    """
    if table.daily is None:
        raise ValueError(f"{table.where} declares no daily")
    shape = ", ".join(
        f'"{name}" {NAMES[column.dtype].sql}' for name, column in table.published.items()
    )
    connection.execute(f"CREATE OR REPLACE TEMP TABLE rows_shape ({shape}, day DATE)")
    grouped = f'"{table.entity_key}", day'
    aggregates = {
        name
        for (name,) in connection.execute(
            "SELECT DISTINCT lower(function_name) FROM duckdb_functions() "
            "WHERE function_type = 'aggregate'"
        ).fetchall()
    }
    types = {}
    for name, column in table.daily.columns.items():
        check_expression(
            connection,
            table,
            kind="daily",
            name=name,
            sql=column.sql,
            relation="rows_shape",
            group_by=grouped,
        )
        where = f"{table.where}.daily.columns: {name}: {column.sql!r}"
        used = _functions(connection, column.sql) & aggregates
        if used - _ORDER_FREE:
            raise ConfigError(
                f"{where} uses {', '.join(sorted(used - _ORDER_FREE))}, whose result may depend on "
                f"the order of rows. Expected only {', '.join(sorted(_ORDER_FREE))}."
            )
        select = f"SELECT ({column.sql}\n) FROM rows_shape GROUP BY {grouped}"
        found = connection.execute(f"DESCRIBE {select}").fetchall()[0][1]
        kind = _canonical(found)
        if kind is None:
            raise ConfigError(
                f"{where} is of type {found}; expected a number, text, a boolean, a date or a "
                "timestamp."
            )
        exact = kind == "BIGINT" or kind.startswith("DECIMAL")
        if column.merge == "sum" and not exact:
            raise ConfigError(
                f"{where} is of type {found} and merged by sum; expected integers or DECIMAL, "
                "whose sums do not depend on the order of rows. Cast what is summed, for example "
                "sum(amount::DECIMAL(18, 6))."
            )
        if kind == "DOUBLE" and used - {"min", "max"}:
            raise ConfigError(
                f"{where} is of type {found}; expected DECIMAL, because sums of floats depend on "
                "the order of rows. Cast what is summed, for example sum(amount::DECIMAL(18, 6))."
            )
        types[name] = kind
    connection.execute("DROP TABLE rows_shape")
    return types


def _functions(connection: duckdb.DuckDBPyConnection, sql: str) -> set[str]:
    rows = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT {sql}\n"])
    tree = json.loads(rows.fetchall()[0][0])
    return {node["function_name"].lower() for node in walk(tree) if "function_name" in node}


def _canonical(kind: str) -> str | None:
    """One type for all integers and one for all decimals of a scale; None for what has no order."""
    if _INTEGER.match(kind):
        return "BIGINT"
    if decimal := _DECIMAL.match(kind):
        return f"DECIMAL(38,{decimal[1]})"
    if kind in ("FLOAT", "DOUBLE"):
        return "DOUBLE"
    if kind.startswith("TIMESTAMP"):
        return "TIMESTAMP"
    return kind if kind in _ARROW_TYPES else None


def _arrow_type(kind: str) -> pa.DataType:
    if decimal := _DECIMAL.match(kind):
        return pa.decimal128(38, int(decimal[1]))
    return _ARROW_TYPES[kind]
