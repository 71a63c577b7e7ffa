"""The past as the SQL of a use case sees it: one relation per table, nothing at or after an end.

Inside DuckDB every timestamp is the wall clock of the use case's zone, without a zone: days begin
at midnight, `as_of` is a midnight, and arithmetic on such timestamps is fast. What lies before an
end is decided by days, which follow from instants (`contract.days`), so an hour that clocks repeat
or skip changes nothing about who knows what.
"""

# Names come from the validated contract and are quoted.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import duckdb
import pyarrow as pa

from evergreen.contract import NAMES, AnyTable
from evergreen.errors import ConfigError
from evergreen.lake.opening import open_files
from evergreen.sql.shards import WHOLE, Shard
from evergreen.sql.text import literal, quote

Boundaries = Mapping[str, date]
"""By table, the day before which events by day are shown merged into one row per entity."""


@dataclass(frozen=True)
class Totals:
    """All days of a table of events before `before`, one row per entity.

    Parameters
    ----------
    rows
        Entity key, `last_day` (date32; newest of the merged days) and the declared columns.
    """

    before: date
    rows: pa.Table


@dataclass(frozen=True)
class Given:
    """What there is of one table.

    Parameters
    ----------
    paths
        Planned Parquet files; they may hold later days, too. May be empty.
    totals
        Stand for all days before their boundary; None where `paths` hold all days.
    rows
        Further ones beside the files: published columns and `day`.
    shard
        Whose rows are wanted; references, which are about nobody, are wanted whole.
    """

    paths: Sequence[str]
    totals: Totals | None = None
    rows: pa.Table | None = None
    shard: Shard = WHOLE


class Past(Protocol):
    """One table, as the SQL sees it."""

    @property
    def table(self) -> AnyTable:
        """Its contract."""

    @property
    def relation(self) -> str:
        """Name under which the SQL reads it."""

    @property
    def stored(self) -> str:
        """Name of the table behind it."""

    def load(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Read the files; called once, while they can still be read."""

    def show(
        self, connection: duckdb.DuckDBPyConnection, end: date, boundary: date | None, shard: Shard
    ) -> None:
        """Let the relation hold the days before `end` of a shard; see `Engine.query`."""

    def merge(self, connection: duckdb.DuckDBPyConnection, boundary: date) -> None:
        """Days before `boundary` will never be asked for by themselves again."""


class _Rows:
    """A table, row by row: its published columns and `day`.

    Parameters
    ----------
    end
        Later days are not loaded at all.

    Notes
    -----
    Loading sorts by all columns, so that what the SQL sees does not depend on how the table happens
    to be cut into files. Cost O(n log n) in the number of rows, for every call.
    """

    def __init__(self, table: AnyTable, given: Given, end: date) -> None:
        self.table, self._given, self._end = table, given, end
        self.relation, self.stored = table.name, f"{table.name}_rows"

    def load(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Sort the rows into a table."""
        rows = read_table(connection, self.table, self._given, self._end)
        first = [self.table.time] if self.table.time else []
        rows.order(", ".join(map(quote, [*first, *rows.columns]))).create(self.stored)

    def merge(self, connection: duckdb.DuckDBPyConnection, boundary: date) -> None:
        """Do nothing: rows are never merged."""


class SingleRows(_Rows):
    """A table of events: every row of the days before an end."""

    def show(
        self, connection: duckdb.DuckDBPyConnection, end: date, boundary: date | None, shard: Shard
    ) -> None:
        """Point the relation at the days before `end`."""
        _view(
            connection,
            self.relation,
            f"SELECT * FROM {self.stored} WHERE day < '{end}' AND {where(shard, self.table)}",
        )


class ValidRows(_Rows):
    """A table of attributes: for each as-of and entity, the row that was valid then.

    Of what had been delivered by the end of the as-of's day, the newest `valid_from` before the
    as-of counts, and of several deliveries of it the last: a change that becomes known late is
    not known before.
    """

    def show(
        self, connection: duckdb.DuckDBPyConnection, end: date, boundary: date | None, shard: Shard
    ) -> None:
        """Point the relation at what was valid at each as-of."""
        key, since = quote(self.table.entity_key or ""), self.table.time
        valid = f"AND r.{quote(since)} < d.as_of" if since else ""
        newest = f"r.{quote(since)} DESC, " if since else ""
        _view(
            connection,
            self.relation,
            f"SELECT d.as_of, r.* EXCLUDE (day) FROM as_of_days AS d INNER JOIN {self.stored} AS r "
            f"ON r.day < '{end}' AND r.day < d.as_of {valid} "
            f"WHERE {where(shard, self.table)} QUALIFY row_number() OVER "
            f"(PARTITION BY d.as_of, r.{key} ORDER BY {newest}r.day DESC) = 1",
        )


class NewestDelivery(_Rows):
    """A table of references: for each as-of, the newest delivery up to the end of its day."""

    def show(
        self, connection: duckdb.DuckDBPyConnection, end: date, boundary: date | None, shard: Shard
    ) -> None:
        """Point the relation at the delivery of each as-of."""
        _view(
            connection,
            self.relation,
            f"SELECT n.as_of, r.* EXCLUDE (day) FROM (SELECT d.as_of, max(s.day) AS day "
            f"FROM as_of_days AS d INNER JOIN (SELECT DISTINCT day FROM {self.stored}) AS s "
            f"ON s.day < '{end}' AND s.day < d.as_of GROUP BY d.as_of) AS n "
            f"INNER JOIN {self.stored} AS r USING (day)",
        )


def read_table(
    connection: duckdb.DuckDBPyConnection, table: AnyTable, given: Given, end: date
) -> duckdb.DuckDBPyRelation:
    """Read the published columns and `day` of the days before `end`, in the types the SQL sees.

    Of a shard, the rows of its entities.

    Raises
    ------
    ConfigError
        The files do not hold the columns of the contract.
    """
    columns = {name: column.dtype for name, column in table.published.items()}
    if not given.paths and given.rows is None:
        empty = ", ".join(f"NULL::{NAMES[dtype].sql} AS {quote(n)}" for n, dtype in columns.items())
        return connection.sql(f"SELECT {empty}, NULL::DATE AS day LIMIT 0")
    found = [open_files(connection, given.paths)] if given.paths else []
    found += [connection.from_arrow(given.rows)] if given.rows is not None else []
    if missing := set(columns) - set(found[0].columns):
        raise ConfigError(
            f"The table {table.name} lacks {sorted(missing)}; it has {sorted(found[0].columns)}. "
            "The contract gained columns after these days were ingested: ingest them again."
        )
    zone = literal(table.setting.zone)
    typed = ", ".join(
        # An instant becomes what the clocks on the wall showed.
        f"timezone({zone}, {quote(name)}) AS {quote(name)}"
        if dtype == "timestamp" and table.setting.zone != "UTC"
        else f"CAST({quote(name)} AS {NAMES[dtype].sql}) AS {quote(name)}"
        for name, dtype in columns.items()
    )
    wanted = f"day < '{end}' AND {where(given.shard, table)}"
    first, *others = (rows.filter(wanted).project(f"{typed}, day") for rows in found)
    return first.union(*others) if others else first


def where(shard: Shard, table: AnyTable) -> str:
    """Return the condition, in SQL, that a row of a table is of a shard or of nobody."""
    return shard.where(table.entity_key) if table.entity_key else "true"


def _view(connection: duckdb.DuckDBPyConnection, name: str, select: str) -> None:
    connection.execute(f"CREATE OR REPLACE VIEW {name} AS {select}")
