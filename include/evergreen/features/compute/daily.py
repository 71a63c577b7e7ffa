"""The relation `daily`: what each entity did on each day, old days merged into one row.

Orders are summed by entity and UTC day while they are read, and days before a boundary are merged
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
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import duckdb
import pyarrow as pa

from evergreen.contract import Daily, UseCase, as_of
from evergreen.errors import ConfigError
from evergreen.features.compute.engine import Engine
from evergreen.features.compute.order_files import DUCKDB_TYPES, naive_utc, read_orders
from evergreen.sql.connection import limited
from evergreen.sql.expressions import check_expression
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
    "TIMESTAMP": pa.timestamp("us", tz="UTC"),
}
# Stored totals end at least this long before they must, so that every run sees days on both
# sides: single where they are loaded, merged where they are computed with.
_OVERLAP = timedelta(days=28)


@dataclass(frozen=True)
class Totals:
    """All days before `before`, one row per entity.

    Parameters
    ----------
    rows
        Entity key, `last_day` (date32; newest of the merged days) and the declared columns.
    """

    before: date
    rows: pa.Table


def merged_before(daily: Daily, day: date) -> date:
    """Return the first day that the SQL may count on seeing by itself, for as-of day `day`."""
    return as_of(day).date() - timedelta(days=daily.lookback_days)


def stored_before(daily: Daily, day: date) -> date:
    """Return the boundary of the stored totals that features of `day` start from.

    The first of a month, so that all days of a month share them.

    >>> from evergreen.contract import DailyColumn
    >>> daily = Daily(lookback_days=30, columns={"n": DailyColumn(sql="count(*)", merge="sum")})
    >>> stored_before(daily, date(2026, 3, 31))
    datetime.date(2026, 2, 1)
    """
    return (merged_before(daily, day) - _OVERLAP).replace(day=1)


def first_reader(daily: Daily, last: date) -> date:
    """Return the first day whose features start from the totals of all days up to `last`.

    >>> from evergreen.contract import DailyColumn
    >>> daily = Daily(lookback_days=30, columns={"n": DailyColumn(sql="count(*)", merge="sum")})
    >>> stored_before(daily, first_reader(daily, date(2026, 1, 31)))
    datetime.date(2026, 2, 1)
    """
    return last + timedelta(days=daily.lookback_days) + _OVERLAP


class DailyRows:
    """The past as days of entities; see `evergreen.features.compute.engine.Past`.

    Parameters
    ----------
    use_case
        Its section `daily` and the contract of its orders.
    paths
        Parquet files of accepted orders. May be empty, and may hold orders before the totals'
        boundary: those are left out.
    end
        UTC midnight; orders at or after it are not loaded.
    totals
        What stands for all earlier orders; None where `paths` hold them.

    Notes
    -----
    Cost O(orders in `paths` + entities); memory is one row per entity and day with orders.
    """

    relation = "daily"
    table = "daily_rows"

    def __init__(
        self, use_case: UseCase, paths: Sequence[str], end: datetime, totals: Totals | None
    ) -> None:
        if use_case.daily is None:
            raise ValueError(f"{use_case.name} declares no daily")
        self._use_case, self._columns = use_case, use_case.daily.columns
        self._key, self._time = use_case.entity.key, use_case.orders.time
        self._paths, self._end, self._totals = paths, end, totals
        # Days before it are in the table daily_totals, the others in daily_rows.
        self._before = totals.before if totals else date.min
        self._types: dict[str, str] = {}

    def load(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Judge the aggregates, then run them while the files are read."""
        orders = read_orders(connection, self._use_case.orders, self._paths)
        self._types = column_types(connection, self._use_case)
        key_type = DUCKDB_TYPES[self._use_case.orders.published[self._key].dtype]
        typed = {self._key: key_type, "day": "DATE", **self._types}
        declared = ", ".join(f'"{name}" {kind}' for name, kind in typed.items())
        connection.execute(f"CREATE TABLE daily_rows ({declared})")
        connection.execute(f"CREATE TABLE daily_totals ({declared})")
        listed = ", ".join(
            f'CAST(({self._columns[name].sql}\n) AS {kind}) AS "{name}"'
            for name, kind in self._types.items()
        )
        day = f'CAST("{self._time}" AS DATE)'
        orders.create_view("orders_read")
        self._run(
            connection,
            f'INSERT INTO daily_rows SELECT "{self._key}", {day} AS day, {listed} '
            f'FROM orders_read WHERE "{self._time}" >= $start AND "{self._time}" < $end '
            f'GROUP BY "{self._key}", {day} ORDER BY day, "{self._key}"',
            {"start": datetime.combine(self._before, time()), "end": naive_utc(self._end)},
        )
        connection.execute("DROP VIEW orders_read")
        if self._totals is not None:
            stored = ", ".join(
                f'CAST("{"last_day" if name == "day" else name}" AS {kind})'
                for name, kind in typed.items()
            )
            connection.register("totals_read", self._totals.rows)
            connection.execute(f"INSERT INTO daily_totals SELECT {stored} FROM totals_read")
            connection.unregister("totals_read")

    def show(
        self, connection: duckdb.DuckDBPyConnection, end: datetime, boundary: date | None
    ) -> None:
        """Point `daily` at the days before `end`, those before `boundary` merged."""
        boundary = self._checked(boundary)
        last = naive_utc(end).date()
        connection.execute(
            f"CREATE OR REPLACE VIEW daily AS {self._merged(boundary)} UNION ALL "
            f"SELECT * FROM daily_rows WHERE day >= '{boundary}' AND day < '{last}'"
        )

    def merge(self, connection: duckdb.DuckDBPyConnection, boundary: date) -> None:
        """Merge the days before `boundary` for good, so that later queries need not."""
        boundary = self._checked(boundary)
        self._run(
            connection, f"CREATE OR REPLACE TABLE daily_totals AS {self._merged(boundary)}", {}
        )
        self._before = boundary

    def totals(self, connection: duckdb.DuckDBPyConnection) -> Totals:
        """Return what `merge` left, sorted by the entity's key."""
        schema = totals_schema(self._use_case, self._types)
        names = ", ".join(f'"{name}"' for name in self._types)
        merged = connection.sql(
            f'SELECT "{self._key}", day AS last_day, {names} FROM daily_totals ORDER BY 1'
        )
        return Totals(self._before, merged.to_arrow_table().cast(schema))

    def _run(
        self, connection: duckdb.DuckDBPyConnection, sql: str, values: dict[str, datetime]
    ) -> None:
        """Run SQL that holds the declared aggregates; what fails there is theirs."""
        where = f"{self._use_case.name}/use_case.yaml: daily.columns"
        try:
            with limited(connection, where):
                connection.execute(sql, values)
        except duckdb.Error as error:
            raise ConfigError(f"{where}: they fail on the orders: {error}") from error

    def _checked(self, boundary: date | None) -> date:
        if boundary is None or boundary == self._before:
            return self._before
        if boundary < self._before:
            raise ValueError(f"days before {self._before} are merged; they cannot end {boundary}")
        return boundary

    def _merged(self, boundary: date) -> str:
        merges = ", ".join(
            f'CAST({self._columns[name].merge}("{name}") AS {kind}) AS "{name}"'
            for name, kind in self._types.items()
        )
        return (
            f'SELECT "{self._key}", max(day) AS day, {merges} FROM (SELECT * FROM daily_totals '
            f"UNION ALL SELECT * FROM daily_rows WHERE day >= '{self._before}' "
            f"AND day < '{boundary}') GROUP BY \"{self._key}\""
        )


def iter_totals(
    use_case: UseCase,
    orders_paths: Sequence[str],
    older: Totals | None,
    boundaries: Sequence[date],
    *,
    threads: int,
    memory_mb: int,
) -> Iterator[Totals]:
    """Compute the totals at some boundaries, each from the one before.

    Parameters
    ----------
    orders_paths
        Files of the orders since `older`, up to the last boundary; later ones do no harm.
    older
        Totals to start from; None starts from the first order.
    boundaries
        Ascending, after `older`.
    """
    end = datetime.combine(boundaries[-1], time(), UTC)
    past = DailyRows(use_case, orders_paths, end, older)
    with Engine(past, threads=threads, memory_mb=memory_mb) as engine:
        for boundary in boundaries:
            past.merge(engine.connection, boundary)
            yield past.totals(engine.connection)


def totals_schema(use_case: UseCase, types: dict[str, str]) -> pa.Schema:
    """Arrow schema of `Totals.rows`, from what `column_types` returned."""
    dtype = use_case.orders.published[use_case.entity.key].dtype
    return pa.schema(
        [
            (use_case.entity.key, _ARROW_TYPES[DUCKDB_TYPES[dtype]]),
            ("last_day", pa.date32()),
            *((name, _arrow_type(kind)) for name, kind in types.items()),
        ]
    )


def column_types(connection: duckdb.DuckDBPyConnection, use_case: UseCase) -> dict[str, str]:
    """Judge the columns of `daily`, and say of which DuckDB type each is.

    Raises
    ------
    ConfigError
        One is no aggregate over the orders, depends on the order of rows, or cannot be merged
        exactly.
    """
    if use_case.daily is None:
        raise ValueError(f"{use_case.name} declares no daily")
    shape = ", ".join(
        f'"{name}" {DUCKDB_TYPES[column.dtype]}'
        for name, column in use_case.orders.published.items()
    )
    connection.execute(f"CREATE OR REPLACE TEMP TABLE orders_shape ({shape})")
    grouped = f'"{use_case.entity.key}", CAST("{use_case.orders.time}" AS DATE)'
    aggregates = {
        name
        for (name,) in connection.execute(
            "SELECT DISTINCT lower(function_name) FROM duckdb_functions() "
            "WHERE function_type = 'aggregate'"
        ).fetchall()
    }
    types = {}
    for name, column in use_case.daily.columns.items():
        check_expression(
            connection,
            use_case,
            kind="daily",
            name=name,
            sql=column.sql,
            relation="orders_shape",
            group_by=grouped,
        )
        where = f"{use_case.name}/use_case.yaml: daily.columns: {name}: {column.sql!r}"
        used = _functions(connection, column.sql) & aggregates
        if used - _ORDER_FREE:
            raise ConfigError(
                f"{where} uses {', '.join(sorted(used - _ORDER_FREE))}, whose result may depend on "
                f"the order of rows. Expected only {', '.join(sorted(_ORDER_FREE))}."
            )
        select = f"SELECT ({column.sql}\n) FROM orders_shape GROUP BY {grouped}"
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
    connection.execute("DROP TABLE orders_shape")
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
