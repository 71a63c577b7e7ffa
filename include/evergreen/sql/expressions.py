"""Judges the SQL a use case brings along before any of it touches a row."""

# The expressions come from the use case, and this module is where they are judged; they are bound
# here, never run over rows.
# ruff: noqa: S608

from __future__ import annotations

import json
from typing import Any, Literal

import duckdb

from evergreen.contract import AnyTable
from evergreen.errors import ConfigError
from evergreen.sql.syntax import unstable_functions, walk

Kind = Literal["rule", "aggregate", "daily"]
_SECTIONS: dict[Kind, str] = {
    "rule": "rules",
    "aggregate": "rollup.aggregates",
    "daily": "daily.columns",
}

_FORBIDDEN = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "a star",
    "PARAMETER": "a parameter",
    "DEFAULT": "DEFAULT",
}


def check_expression(
    connection: duckdb.DuckDBPyConnection,
    table: AnyTable,
    *,
    kind: Kind,
    name: str,
    sql: str,
    relation: str,
    group_by: str = "",
) -> None:
    """Fail unless `sql` is one expression of its kind over the columns of `relation`.

    A rule must be a boolean over one row; the others one value per group. Neither may look at
    other tables or at the clock: the same rows must be judged alike whenever they are judged.

    Raises
    ------
    ConfigError
        Naming the expression, what was found, and DuckDB's message where it has one.
    """
    where = f"{table.where}.{_SECTIONS[kind]}: {name}: {sql!r}"
    expected = "one boolean expression" if kind == "rule" else "one aggregate expression"
    select = _parsed(connection, sql, where, expected)
    columns = {row[0].lower() for row in connection.execute(f"DESCRIBE {relation}").fetchall()}
    unstable = unstable_functions()
    for node in walk(select):
        if node.get("class") in _FORBIDDEN:
            raise ConfigError(
                f"{where} holds {_FORBIDDEN[node['class']]}; expected {expected} over the columns "
                "of one row."
            )
        called = node.get("function_name") or _bare_name(node)
        if called and called.lower() in unstable and called.lower() not in columns:
            raise ConfigError(
                f"{where} uses {called}, whose value changes from call to call; use the columns."
            )
    try:
        if kind != "rule":
            connection.execute(f"EXPLAIN SELECT {sql}\n FROM {relation} GROUP BY {group_by}")
            return
        described = connection.execute(f"DESCRIBE SELECT ({sql}\n) FROM {relation}").fetchall()
        connection.execute(f"EXPLAIN SELECT 1 FROM {relation} WHERE ({sql}\n)")
    except duckdb.Error as error:
        raise ConfigError(f"{where} is not {expected}. DuckDB: {error}") from error
    found = described[0][1]
    if found != "BOOLEAN":
        raise ConfigError(f"{where} is of type {found}; expected BOOLEAN.")


def _parsed(
    connection: duckdb.DuckDBPyConnection, sql: str, where: str, expected: str
) -> dict[str, Any]:
    """Parse on its own, so that no bracket or keyword can reach beyond the expression."""
    row = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT {sql}\n"]).fetchone()
    tree = json.loads(row[0]) if row else {}
    if tree.get("error"):
        raise ConfigError(f"{where} is not valid SQL. DuckDB: {tree.get('error_message')}")
    statements = tree["statements"]
    node = statements[0]["node"] if len(statements) == 1 else {}
    select: list[dict[str, Any]] = node.get("select_list", [])
    plain = (
        node.get("type") == "SELECT_NODE"
        and not node["modifiers"]
        and not node["cte_map"]["map"]
        and node["from_table"]["type"] == "EMPTY"
        and not any(node[key] for key in ("where_clause", "group_expressions", "having", "qualify"))
        and len(select) == 1
        and not select[0]["alias"]
    )
    if not plain:
        raise ConfigError(f"{where} is more than an expression; expected {expected}.")
    return select[0]


def _bare_name(node: dict[str, Any]) -> str | None:
    """Return the name of a column reference: `current_date` without brackets looks like one."""
    names = node.get("column_names") or []
    return names[0] if len(names) == 1 else None
