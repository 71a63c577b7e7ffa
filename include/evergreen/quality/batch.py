"""The rows of one split inside DuckDB: staged, typed, and in a fixed order."""

# SQL is composed here. Identifiers come from the validated use case or are quoted, values are bound
# or written as escaped literals; rows only ever arrive as a registered table.
# ruff: noqa: S608

from __future__ import annotations

from datetime import date

import duckdb
import pyarrow as pa

from evergreen.contract import AnyTable
from evergreen.errors import ConfigError, SourceError
from evergreen.quality.parsing import parse, prepare, trimmed
from evergreen.sql.text import quote

META = ("_day", "_source", "_row", "_error", "_text")

# The day of a row: its file's, else that of its event time; undated and too early rows go to the
# first day, too late ones to the last day if there is one (`least` passes over a null).
_BELONGS = 'coalesce("~day", least(greatest("~event_day", $first), $last), $first)'


class Batch:
    """One connection with the rows of the days asked for.

    Parameters
    ----------
    connection
        An in-memory DuckDB whose time zone is the table's; the tables below live in it.
    table, raw, start, end, threads
        As `split_rows` takes them.

    Notes
    -----
    `stage` makes `staged`: the contract's columns under their names, and internal ones whose names
    start with `~` (which no contract column can): `~r<i>` the source's columns as delivered,
    `~t<i>` trimmed text and `~n<i>` "not finite" of the contract's columns, `~day`, `~source`,
    `~row`, `~error`, `~text` as delivered, `~event_day`, and `~belongs`, the day of the row. Its
    rowid is the order of the rows.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        table: AnyTable,
        raw: pa.Table,
        start: date,
        end: date,
        threads: int,
    ) -> None:
        if start >= end:
            raise ConfigError(
                f"The days asked for are [{start}, {end}); expected start before end."
            )
        self.connection = connection
        self.table = table
        self.raw = raw
        self.start, self.end, self.threads = start, end, threads
        self.sources = [name for name in raw.column_names if name not in META]
        # Source columns get neutral names: theirs may be empty, or equal but for their case.
        self.delivered = {name: f"~r{i}" for i, name in enumerate(self.sources)}
        self.bounds = {
            "first": table.setting.first_day,
            "last": table.setting.last_day,
            "start": start,
            "end": end,
        }

    def stage(self) -> None:
        """Make `staged`."""
        self._require_columns()
        raw = self.raw
        arrays = {f"~{name[1:]}": raw.column(name) for name in META}
        arrays |= {f"~r{i}": raw.column(n).cast(pa.string()) for i, n in enumerate(self.sources)}
        self.connection.register("raw", pa.table(arrays))
        mapped, prepared, typed = [], [], []
        for i, (name, column) in enumerate(self.table.columns.items()):
            zone = self.table.zone_of(column)
            delivered = self.delivered.get(column.source)
            text = trimmed(quote(delivered)) if delivered else "CAST(NULL AS VARCHAR)"
            mapped.append(f'{text} AS "~t{i}"')
            prepared.append(f"""{prepare(f'"~t{i}"', column, zone)} AS "~p{i}\"""")
            parsed = parse(f'"~t{i}"', f'"~p{i}"', column, zone)
            typed.append(f'{parsed.value} AS {quote(name)}, {parsed.not_finite} AS "~n{i}"')
        time = quote(self.table.time) if self.table.time else "NULL"
        event_day = f"CAST({time} AS DATE)"
        self.run(
            "CREATE TABLE staged AS",
            f"WITH mapped AS (SELECT *, {', '.join(mapped)} FROM raw),",
            f"prepared AS (SELECT *, {', '.join(prepared)} FROM mapped),",
            f"typed AS (SELECT *, {', '.join(typed)} FROM prepared),",
            f'dated AS (SELECT *, {event_day} AS "~event_day",',
            f'{_BELONGS} AS "~belongs" FROM typed)',
            'SELECT * FROM dated WHERE "~belongs" >= $start AND "~belongs" < $end',
            'ORDER BY "~belongs", "~source", "~row"',
            **self.bounds,
        )

    def belonging(self) -> pa.ChunkedArray:
        """Tell of each raw row, in order, whether it belongs to the days; needs no `stage`."""
        self._require_columns()
        assert self.table.time is not None
        column = self.table.columns[self.table.time]
        zone = self.table.zone_of(column)
        times = self.raw.column(column.source).cast(pa.string())
        position = pa.array(range(self.raw.num_rows), pa.int64())
        self.connection.register(
            "raw", pa.table({"~n": position, "~day": self.raw.column("_day"), "~r": times})
        )
        parsed = parse('"~t"', '"~p"', column, zone)
        return self.rows(
            f"""WITH mapped AS (SELECT *, {trimmed('"~r"')} AS "~t" FROM raw),""",
            f"""prepared AS (SELECT *, {prepare('"~t"', column, zone)} AS "~p" FROM mapped),""",
            f'dated AS (SELECT *, CAST({parsed.value} AS DATE) AS "~event_day" FROM prepared)',
            f"SELECT {_BELONGS} >= $start AND {_BELONGS} < $end FROM dated",
            'ORDER BY "~n"',
            schema=pa.schema([("belongs", pa.bool_())]),
            **self.bounds,
        ).column("belongs")

    def _require_columns(self) -> None:
        wanted = {column.source for column in self.table.columns.values()}
        missing = sorted(wanted - set(self.sources))
        if missing and self.raw.column("_error").null_count:
            raise SourceError(
                f"{self.table.where}: the source has no column {', '.join(map(repr, missing))}; it "
                f"has {self.sources}. Mend the file, its delimiter or header, or the mapping in "
                "columns.*.source."
            )

    def run(self, *lines: str, **values: object) -> None:
        """Execute one statement, written in lines, with bound values."""
        self.connection.execute("\n".join(lines), values or None)

    def scalar(self, sql: str) -> int:
        """Return the whole number a query gives."""
        row = self.connection.execute(sql).fetchone()
        return int(row[0]) if row else 0

    def rows(self, *lines: str, schema: pa.Schema, **values: object) -> pa.Table:
        """Return what a query gives, under the names and types of `schema`."""
        found = self.connection.sql("\n".join(lines), params=values or None).to_arrow_table()
        return found.rename_columns(schema.names).cast(schema)
