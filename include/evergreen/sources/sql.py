"""Rows of a query over any SQLAlchemy URL, one day at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from evergreen.contract import SqlSource, as_of
from evergreen.errors import ConfigError, ServiceDownError, SourceError
from evergreen.settings import secret
from evergreen.sources.base import (
    CHUNK_ROWS,
    check_columns,
    chunked,
    days_between,
    empty_raw,
    raw_table,
    value_as_text,
)

# Statements that make a session compare instants in UTC, whatever the server's default.
_UTC_SESSION = {
    "postgresql": "SET TIME ZONE 'UTC'",
    "cockroachdb": "SET TIME ZONE 'UTC'",
    "mysql": "SET time_zone = '+00:00'",
    "mariadb": "SET time_zone = '+00:00'",
}
# Dialects whose drivers pass an aware instant on as one.
_AWARE = {"postgresql", "cockroachdb", "snowflake", "bigquery", "trino", "duckdb"}


@dataclass(frozen=True)
class QueryReader:
    """Runs the declared query once per day, bound to the instants at which it begins and ends.

    Parameters
    ----------
    declared
        The `source` section; `secret` names the environment variable that holds the URL.
    required
        Columns the result must have.
    zone
        Whose midnights begin the days; some of them have 23 or 25 hours.

    Notes
    -----
    One query per day, never one per range: the rows of a day, their numbers and their `_day` are
    then the same whether a day is read alone or within two years. Add `ORDER BY` to the query if
    row numbers are to survive a second run; without it the server may choose another order.

    What `:start` and `:end` are bound to depends on what the database compares:

    * SQLite has no instants, only text. In zone UTC they are bound as `YYYY-MM-DD`: both bounds are
      midnights, and that text sorts before every ISO 8601 spelling of an instant of its day
      (with `T` or a blank, with or without fractions, with `Z`) and after all of the day before;
      a full timestamp would sort after a midnight stored with fewer digits, and lose it. In other
      zones days begin within a day of UTC, and they are bound as `YYYY-MM-DD HH:MM:SS` of UTC,
      SQLite's own format; text in another one must go through its `datetime()` in the query;
    * databases with a type for instants (PostgreSQL and its kin) get aware UTC instants, in a
      session whose time zone is UTC, which is right for columns with and without a zone;
    * others (MySQL, MariaDB, SQL Server, Oracle) get naive UTC, because their drivers drop or
      refuse the zone.

    Stored text and zone-less columns must therefore hold UTC; otherwise convert in the query.
    """

    declared: SqlSource
    required: tuple[str, ...]
    zone: str = "UTC"

    @property
    def digest(self) -> str:
        """First 12 hex digits of the query's SHA-256; part of every `_source`."""
        return hashlib.sha256(self.declared.query.encode()).hexdigest()[:12]

    def read(self, start: date, end: date) -> Iterator[pa.Table]:
        """Yield raw rows; see `Source.read`."""
        return chunked(self._read(days_between(start, end)), self.required)

    def _read(self, days: list[date]) -> Iterator[pa.Table]:
        if not days:
            return
        engine = self._engine()
        try:
            with _connected(engine, self.declared.secret) as connection:
                for day in days:
                    yield from self._day(connection, engine.dialect.name, day)
        finally:
            engine.dispose()

    def _day(self, connection: Connection, dialect: str, day: date) -> Iterator[pa.Table]:
        where = f"The query of source.secret {self.declared.secret!r} (digest {self.digest})"
        batch_rows = min(self.declared.batch_rows, CHUNK_ROWS)
        begun, ended = as_of(day - timedelta(days=1), self.zone), as_of(day, self.zone)
        bounds = {
            "start": bound(dialect, begun, self.zone),
            "end": bound(dialect, ended, self.zone),
        }
        streaming = connection.execution_options(stream_results=True, max_row_buffer=batch_rows)
        try:
            with streaming.execute(sa.text(self.declared.query), bounds) as result:
                if not result.returns_rows:
                    raise SourceError(f"{where} returns no rows at all; expected one SELECT.")
                names = list(result.keys())
                check_columns(names, self.required, where)
                first = 1
                for rows in result.partitions(batch_rows):
                    yield self._table(names, rows, first, day)
                    first += len(rows)
                if first == 1:
                    yield empty_raw(names)
        except SQLAlchemyError as error:
            raise _translated(error, where, day, bounds) from None

    def _table(self, names: list[str], rows: Any, first: int, day: date) -> pa.Table:
        columns = {
            name: pa.array([value_as_text(value) for value in values], pa.string())
            for name, values in zip(names, zip(*rows, strict=True), strict=True)
        }
        numbers = pa.array(range(first, first + len(rows)), pa.int64())
        return raw_table(columns, source=f"sql:{self.digest}/{day}", rows=numbers, day=day)

    def _engine(self) -> Engine:
        name = self.declared.secret
        variable = f"EVERGREEN_SECRET_{name.upper()}"
        # Whatever is wrong with the URL is said without it: it holds a password. The original
        # error is dropped, too, because its message may quote the URL.
        try:
            url = make_url(secret(name))
            _require_file(url, variable)
            return sa.create_engine(url, poolclass=NullPool)
        except (ArgumentError, NoSuchModuleError):
            message = "is not a SQLAlchemy URL of an installed dialect"
        except ModuleNotFoundError as error:
            message = f"needs the database driver {error.name!r}, which is not installed"
        raise ConfigError(
            f"The URL in {variable} {message}; expected for example "
            "postgresql+psycopg2://user:password@host/database."
        ) from None


def bound(dialect: str, midnight: datetime, zone: str) -> datetime | str:
    """Return what a local midnight (an instant in UTC) is bound to; see `QueryReader`.

    >>> bound("sqlite", as_of(date(2026, 2, 28)), "UTC")
    '2026-03-01'
    >>> bound("sqlite", as_of(date(2026, 2, 28), "Europe/Berlin"), "Europe/Berlin")
    '2026-02-28 23:00:00'
    """
    if dialect == "sqlite":
        return midnight.strftime("%Y-%m-%d" if zone == "UTC" else "%Y-%m-%d %H:%M:%S")
    return midnight if dialect in _AWARE else midnight.replace(tzinfo=None)


def _require_file(url: URL, variable: str) -> None:
    # SQLite would create the file and then report a missing table.
    path = url.database
    if url.get_backend_name() != "sqlite" or path in (None, "", ":memory:"):
        return
    if not str(path).startswith("file:") and not Path(str(path)).is_file():
        raise ServiceDownError(
            f"The SQLite file named in {variable} does not exist. Deliver it, or mend the variable."
        )


@contextmanager
def _connected(engine: Engine, name: str) -> Iterator[Connection]:
    dialect = engine.dialect.name
    try:
        connection = engine.connect()
        if dialect == "postgresql":
            connection = connection.execution_options(postgresql_readonly=True)
        if statement := _UTC_SESSION.get(dialect):
            connection.exec_driver_sql(statement)
    except SQLAlchemyError as error:
        raise ServiceDownError(
            f"The database of source.secret {name!r} does not accept a connection: "
            f"{_without_password(error, engine.url)}. Check that it runs and that the URL in "
            f"EVERGREEN_SECRET_{name.upper()} is right."
        ) from None
    with connection:
        yield connection


def _without_password(error: SQLAlchemyError, url: URL) -> str:
    text = str(getattr(error, "orig", None) or error).strip().rstrip(".")
    for shown in (url.render_as_string(hide_password=False), str(url.password or "")):
        if shown:
            text = text.replace(shown, "***")
    return text


def _translated(
    error: SQLAlchemyError, where: str, day: date, bounds: Mapping[str, datetime | str]
) -> Exception:
    cause = str(getattr(error, "orig", None) or error).strip().rstrip(".")
    if isinstance(error, DBAPIError) and (
        error.connection_invalidated or "database is locked" in cause
    ):
        return ServiceDownError(f"{where} was interrupted on {day}: {cause}. It may be run again.")
    return SourceError(
        f"{where} fails for {day}: {cause}. Run it by hand with :start = '{bounds['start']}' and "
        f":end = '{bounds['end']}', and mend source.query."
    )
