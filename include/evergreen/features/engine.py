"""A locked DuckDB in which a use case's SQL sees orders, as-of days and nothing else.

The SQL of a use case is configuration: it may compute whatever it likes from `orders` and
`as_of_days`, and it may not read files, the network, the clock or chance. The first two are
refused by DuckDB (external access is off and the configuration locked before the SQL is even
bound), the others by a look at its syntax tree.

Inside, every instant is a naive `TIMESTAMP` in UTC: DuckDB's arithmetic on zoned timestamps goes
through calendars and takes twice as long. The zone is attached again on the way out.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from duckdb import ColumnExpression, ConstantExpression

from evergreen.errors import ConfigError
from evergreen.syntax import unstable_functions, walk
from evergreen.use_case import Column, Dtype

RELATIONS = ("orders", "as_of_days")

_DUCKDB_TYPES: dict[Dtype, str] = {
    "string": "VARCHAR",
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "bool": "BOOLEAN",
    "timestamp": "TIMESTAMP",
    "date": "DATE",
}
_PURE_TABLE_FUNCTIONS = {"unnest", "range", "generate_series"}
# The parser reads these SQL keywords as columns; they become functions when they are bound.
_CLOCK_KEYWORDS = {
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
}


class Engine:
    """The orders of one call, and the only way to ask a use case's SQL about them.

    Parameters
    ----------
    paths
        Parquet files of accepted orders: local paths or URLs. May be empty.
    columns
        The published contract of orders; only these columns are visible.
    time
        The event-time column.
    end
        UTC instant; orders at or after it are not loaded at all.
    threads, memory_mb
        DuckDB's limits. Beyond the memory it spills to the temporary directory of the system.

    Raises
    ------
    ConfigError
        The files do not hold the columns of the contract.

    Notes
    -----
    Loading sorts by time and all else, so that what the SQL sees does not depend on how the table
    happens to be cut into files. Cost O(n log n) in the number of orders.
    """

    def __init__(
        self,
        paths: Sequence[str],
        columns: dict[str, Column],
        time: str,
        end: datetime,
        *,
        threads: int,
        memory_mb: int,
    ) -> None:
        self._time = time
        self._spill = tempfile.TemporaryDirectory(prefix="evergreen-duckdb-")
        self._connection = duckdb.connect(
            config={
                "threads": str(threads),
                "memory_limit": f"{memory_mb}MB",
                "temp_directory": self._spill.name,
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            }
        )
        try:
            self._connection.execute("SET TimeZone = 'UTC'")
            self._load(paths, columns, end)
            self._connection.execute("SET enable_external_access = false")
            self._connection.execute("SET lock_configuration = true")
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._connection.close()
        self._spill.cleanup()

    def _load(self, paths: Sequence[str], columns: dict[str, Column], end: datetime) -> None:
        declared = ", ".join(
            f'"{name}" {_DUCKDB_TYPES[column.dtype]}' for name, column in columns.items()
        )
        self._connection.execute(f"CREATE TABLE accepted ({declared})")
        if not paths:
            return
        files = self._open(paths)
        missing = set(columns) - set(files.columns)
        if missing:
            raise ConfigError(
                f"The orders table lacks {sorted(missing)}; it has {sorted(files.columns)}. "
                "The contract gained columns after these days were ingested: ingest them again."
            )
        order = [ColumnExpression(self._time), *map(ColumnExpression, columns)]
        typed = files.select(
            *(
                ColumnExpression(name).cast(_DUCKDB_TYPES[column.dtype]).alias(name)
                for name, column in columns.items()
            )
        )
        typed.filter(self._before(end)).sort(*order).insert_into("accepted")

    def _open(self, paths: Sequence[str]) -> duckdb.DuckDBPyRelation:
        if any("://" in path for path in paths):
            # DuckDB's own access to object stores is an extension to download; Arrow's is not.
            system, first = pafs.FileSystem.from_uri(paths[0])
            rest = [system.normalize_path(path.split("://", 1)[1]) for path in paths[1:]]
            return self._connection.from_arrow(ds.dataset([first, *rest], filesystem=system))
        # The folders of a partitioned table spell `day=...`; the file holds the column already.
        return self._connection.read_parquet(
            list(paths), union_by_name=True, hive_partitioning=False
        )

    def _before(self, end: datetime) -> duckdb.Expression:
        return ColumnExpression(self._time) < ConstantExpression(_naive_utc(end))

    def query(
        self,
        sql: str,
        as_of_days: Sequence[tuple[datetime, ...]],
        names: Sequence[str],
        end: datetime,
    ) -> duckdb.DuckDBPyRelation:
        """Bind one SELECT to the orders before `end` and to the as-of days.

        Parameters
        ----------
        sql
            A statement that `checked_select` has returned.
        as_of_days
            Rows of the relation `as_of_days`: UTC instants.
        names
            Its column names.
        end
            UTC instant, excluded.

        Returns
        -------
        duckdb.DuckDBPyRelation
            Not executed yet; valid until the next call.
        """
        visible = self._connection.table("accepted").filter(self._before(end))
        visible.create_view("orders", replace=True)
        declared = ", ".join(f'"{name}" TIMESTAMP' for name in names)
        self._connection.execute(f"CREATE OR REPLACE TABLE as_of_days ({declared})")
        marks = ", ".join("?" for _ in names)
        self._connection.executemany(
            f"INSERT INTO as_of_days VALUES ({marks})",  # noqa: S608 - only question marks
            [[_naive_utc(instant) for instant in row] for row in as_of_days],
        )
        return self._connection.sql(sql)

    def checked_select(self, sql: str, path: Path) -> str:
        """Return the one SELECT in `sql`, if it reads nothing but the two relations.

        Raises
        ------
        ConfigError
            It does not parse, is not exactly one SELECT, names another relation or a function
            that reads files, or calls a function whose value is not determined by its arguments.
        """
        try:
            statements = self._connection.extract_statements(sql)
        except duckdb.Error as error:
            raise ConfigError(f"{path} is not valid SQL: {error}") from error
        kinds = [statement.type.name for statement in statements]
        if kinds != ["SELECT"]:
            raise ConfigError(f"{path} holds {kinds or 'no statement'}; expected one SELECT.")
        select: str = statements[0].query
        asked = self._connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [select])
        # All rows, though there is one: a result that is not read to its end blocks the connection.
        tree = json.loads(asked.fetchall()[0][0])
        if tree["error"]:
            raise ConfigError(
                f"{path} cannot be examined: {tree.get('error_message', 'no syntax tree')}. "
                "Write it as a plain SELECT."
            )
        self._examine(tree, path)
        return select

    def _examine(self, tree: Any, path: Path) -> None:
        nodes = list(walk(tree))
        known = {*RELATIONS, *(name for node in nodes for name in _cte_names(node))}
        for node in nodes:
            kind = node.get("type")
            if kind == "BASE_TABLE":
                name = ".".join(filter(None, (node.get("schema_name"), node["table_name"])))
                if name.lower() not in known:
                    raise ConfigError(
                        f"{path} reads {name!r}; expected only {' and '.join(RELATIONS)}."
                    )
            elif kind == "TABLE_FUNCTION":
                name = node["function"]["function_name"].lower()
                if name not in _PURE_TABLE_FUNCTIONS:
                    raise ConfigError(
                        f"{path} reads from the function {name}(); expected only "
                        f"{' and '.join(RELATIONS)}."
                    )
            elif kind == "FUNCTION" and node["function_name"].lower() in unstable_functions():
                raise _impure(path, f"{node['function_name']}()")
            elif kind == "COLUMN_REF" and len(node["column_names"]) == 1:
                name = node["column_names"][0]
                if name.lower() in _CLOCK_KEYWORDS:
                    raise _impure(path, name)


def _impure(path: Path, name: str) -> ConfigError:
    return ConfigError(
        f"{path} uses {name}, which is not determined by its arguments. Expected the same result "
        "whenever it runs: use as_of for the time, and nothing for chance."
    )


def _cte_names(node: dict[str, Any]) -> list[str]:
    entries = node.get("cte_map", {}).get("map", [])
    return [entry["key"].lower() for entry in entries]


def _naive_utc(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(tzinfo=None)
