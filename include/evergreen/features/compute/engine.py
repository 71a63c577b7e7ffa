"""A locked DuckDB in which a use case's SQL sees its past, the as-of days and nothing else.

The SQL of a use case is configuration: it may compute whatever it likes from its relations,
and it may not read files, the network, the clock or chance. The first two are refused by DuckDB
(external access is off and the configuration locked before the SQL is even bound), the others by
a look at its syntax tree.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb

from evergreen.errors import ConfigError
from evergreen.features.compute.past import Boundaries, Past
from evergreen.sql.connection import opened
from evergreen.sql.shards import WHOLE, Shard
from evergreen.sql.syntax import order_dependence, unstable_functions, walk, without_end

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
    """The past of one call, and the only way to ask a use case's SQL about it.

    Parameters
    ----------
    pasts
        What to load, table by table.
    seconds
        Time allowed for one query; by default `EVERGREEN_SQL_TIMEOUT_SECONDS`.

    Raises
    ------
    ConfigError
        The files do not hold what the contract says.
    """

    def __init__(self, pasts: Sequence[Past], *, seconds: float | None = None) -> None:
        self._pasts, self.seconds = pasts, seconds
        self._relations = [*(past.relation for past in pasts), "as_of_days"]
        with ExitStack() as stack:
            self.connection = stack.enter_context(opened("engine"))
            for past in pasts:
                past.load(self.connection)
            self.connection.execute("SET enable_external_access = false")
            self.connection.execute("SET lock_configuration = true")
            self._close = stack.pop_all().close

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def query(
        self,
        sql: str,
        as_of_days: Sequence[tuple[datetime, ...]],
        names: Sequence[str],
        end: date,
        boundaries: Boundaries,
        shard: Shard = WHOLE,
    ) -> duckdb.DuckDBPyRelation:
        """Bind one SELECT to the days before `end` and to the as-of days.

        Parameters
        ----------
        sql
            A statement that `checked_select` has returned.
        as_of_days
            Rows of the relation `as_of_days`: local midnights, without a zone.
        names
            Its column names.
        end
            First day that is not known.
        boundaries
            By table of which days are shown: days before it are shown merged into one row per
            entity. A table that is not named shows no more merged than is stored merged.
        shard
            Whose rows are shown of what is loaded.

        Returns
        -------
        duckdb.DuckDBPyRelation
            Not executed yet; valid until the next call.
        """
        declared = ", ".join(f'"{name}" TIMESTAMP' for name in names)
        self.connection.execute(f"CREATE OR REPLACE TABLE as_of_days ({declared})")
        marks = ", ".join("?" for _ in names)
        self.connection.executemany(
            f"INSERT INTO as_of_days VALUES ({marks})",  # noqa: S608 - only question marks
            [list(row) for row in as_of_days],
        )
        for past in self._pasts:
            past.show(self.connection, end, boundaries.get(past.table.name), shard)
        return self.connection.sql(sql)

    def checked_select(self, sql: str, path: Path) -> str:
        """Return the one SELECT in `sql`, if it reads nothing but its relations.

        Raises
        ------
        ConfigError
            It does not parse, is not exactly one SELECT, names another relation or a function
            that reads files, calls a function whose value is not determined by its arguments, or
            depends on the order of rows.
        """
        try:
            statements = self.connection.extract_statements(sql)
        except duckdb.Error as error:
            raise ConfigError(f"{path} is not valid SQL: {error}") from error
        kinds = [statement.type.name for statement in statements]
        if kinds != ["SELECT"]:
            raise ConfigError(f"{path} holds {kinds or 'no statement'}; expected one SELECT.")
        select = without_end(statements[0].query)
        asked = self.connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [select])
        # All rows, though there is one: a result that is not read to its end blocks the connection.
        tree = json.loads(asked.fetchall()[0][0])
        if tree["error"]:
            raise ConfigError(
                f"{path} cannot be examined: {tree.get('error_message', 'no syntax tree')}. "
                "Write it as a plain SELECT."
            )
        self._examine(tree, path)
        if found := order_dependence(tree, select):
            raise ConfigError(
                f"{path} depends on the order in which rows come, which may differ from run to "
                f"run. Found {found}."
            )
        return select

    def _examine(self, tree: Any, path: Path) -> None:
        nodes = list(walk(tree))
        tables = self.connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
        named = {name for node in nodes for name in _cte_names(node)}
        if hidden := named & {name for (name,) in tables}:
            # Outside of where it is defined, the name would be the table's.
            raise ConfigError(f"{path}: {', '.join(sorted(hidden))}: name that WITH otherwise.")
        known = {*self._relations, *named}
        expected = f"expected only {', '.join(self._relations)}"
        for node in nodes:
            kind = node.get("type")
            if kind == "BASE_TABLE":
                name = ".".join(filter(None, (node.get("schema_name"), node["table_name"])))
                if name.lower() not in known:
                    raise ConfigError(f"{path} reads {name!r}; {expected}.")
            elif kind == "TABLE_FUNCTION":
                name = node["function"]["function_name"].lower()
                if name not in _PURE_TABLE_FUNCTIONS:
                    raise ConfigError(f"{path} reads from the function {name}(); {expected}.")
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
