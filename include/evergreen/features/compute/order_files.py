"""Orders as the SQL of a use case reads them, from the lake's files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime

import duckdb
from duckdb import ColumnExpression, ConstantExpression

from evergreen.contract import Dtype, Orders
from evergreen.errors import ConfigError
from evergreen.lake.sealed import open_remote, require_intact

DUCKDB_TYPES: dict[Dtype, str] = {
    "string": "VARCHAR",
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "bool": "BOOLEAN",
    "timestamp": "TIMESTAMP",
    "date": "DATE",
}


class SingleOrders:
    """The relation `orders`: every accepted order before an instant.

    Parameters
    ----------
    orders
        The contract; only its published columns are visible.
    paths
        Parquet files of accepted orders: local paths or URLs. May be empty.
    end
        UTC instant; orders at or after it are not loaded at all.

    Notes
    -----
    Loading sorts by time and all else, so that what the SQL sees does not depend on how the table
    happens to be cut into files. Cost O(n log n) in the number of orders, for every call.
    """

    relation = "orders"
    table = "accepted"

    def __init__(self, orders: Orders, paths: Sequence[str], end: datetime) -> None:
        self._orders, self._paths, self._end = orders, paths, end

    def load(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Sort the orders into a table."""
        typed = read_orders(connection, self._orders, self._paths)
        order = [ColumnExpression(self._orders.time), *map(ColumnExpression, typed.columns)]
        typed.filter(self._before(self._end)).sort(*order).create("accepted")

    def show(
        self,
        connection: duckdb.DuckDBPyConnection,
        end: datetime,
        boundary: date | None,
    ) -> None:
        """Point `orders` at those before `end`."""
        visible = connection.table("accepted").filter(self._before(end))
        visible.create_view("orders", replace=True)

    def merge(self, connection: duckdb.DuckDBPyConnection, boundary: date) -> None:
        """Orders are never merged."""

    def _before(self, end: datetime) -> duckdb.Expression:
        return ColumnExpression(self._orders.time) < ConstantExpression(naive_utc(end))


def read_orders(
    connection: duckdb.DuckDBPyConnection, orders: Orders, paths: Sequence[str]
) -> duckdb.DuckDBPyRelation:
    """Read the published columns of orders, in the types the SQL sees; not executed yet.

    Raises
    ------
    ConfigError
        The files do not hold the columns of the contract.
    """
    columns = {name: DUCKDB_TYPES[column.dtype] for name, column in orders.published.items()}
    if not paths:
        empty = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in columns.items())
        return connection.sql(f"SELECT {empty} LIMIT 0")
    files = open_files(connection, paths)
    missing = set(columns) - set(files.columns)
    if missing:
        raise ConfigError(
            f"The orders table lacks {sorted(missing)}; it has {sorted(files.columns)}. "
            "The contract gained columns after these days were ingested: ingest them again."
        )
    return files.select(
        *(ColumnExpression(name).cast(kind).alias(name) for name, kind in columns.items())
    )


def naive_utc(instant: datetime) -> datetime:
    """Take the zone off an instant, after turning it into UTC."""
    return instant.astimezone(UTC).replace(tzinfo=None)


def open_files(
    connection: duckdb.DuckDBPyConnection, paths: Sequence[str]
) -> duckdb.DuckDBPyRelation:
    """Open planned Parquet files, local ones or those behind URLs, as one relation.

    Raises
    ------
    DamagedError
        One is missing or damaged.
    """
    if any("://" in path for path in paths):
        return connection.from_arrow(open_remote(paths))
    # DuckDB looks at no checksum.
    require_intact(paths)
    # The folders of a partitioned table spell `day=...`; the file holds the column already.
    return connection.read_parquet(as_named(paths), union_by_name=True, hive_partitioning=False)


def as_named(paths: Sequence[str]) -> list[str]:
    """Spell local paths so that DuckDB takes none for a pattern."""
    return [re.sub(r"([*?[])", r"[\1]", path) for path in paths]
