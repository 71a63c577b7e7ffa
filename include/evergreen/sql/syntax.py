"""What the SQL of a use case may not do, read off DuckDB's syntax tree."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import duckdb

from evergreen.sql.connection import opened

# Of several rows they take the first that comes, list them as they come, or settle ties that way.
_ORDERED_AGGREGATES = {
    *("first", "last", "any_value", "arbitrary", "mode", "list", "array_agg"),
    *("string_agg", "listagg", "group_concat", "min_by", "max_by"),
    *(f"arg{_}{end}" for end in ("min", "max") for _ in ("", "_")),
    *(f"arg_{end}{nulls}" for end in ("min", "max") for nulls in ("_null", "_nulls_last")),
}
_ORDERED_WINDOWS = {
    *("row_number", "ntile", "lag", "lead", "fill"),
    *("first_value", "last_value", "nth_value"),
    *_ORDERED_AGGREGATES,
}
# Whatever order they are given, they approximate by the order in which rows come.
_APPROXIMATE = {"approx_quantile", "approx_top_k", "reservoir_quantile", "lttb"}


def walk(tree: Any) -> Iterator[dict[str, Any]]:
    """Iterate over the nodes of a tree as `json_serialize_sql` gives it, parents first."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for child in tree:
            yield from walk(child)


def without_end(select: str) -> str:
    """Return a statement without the semicolons, and what is remarked after them, at its end.

    Behind a semicolon DuckDB allows nothing in a relation, not even a remark.
    """
    text = select.encode()
    for place, kind in reversed(duckdb.tokenize(select)):
        if text[place : place + 1] == b";":
            text = text[:place]
        elif kind != duckdb.token_type.comment:
            break
    return text.decode()


@cache
def unstable_functions() -> frozenset[str]:
    """Return the lower-case names of functions whose value their arguments do not determine."""
    with opened("functions") as connection:
        rows = connection.execute(
            "SELECT DISTINCT lower(function_name) FROM duckdb_functions() "
            "WHERE stability <> 'CONSISTENT'"
        ).fetchall()
    return frozenset(name for (name,) in rows)


def order_dependence(tree: Any, sql: str) -> str | None:
    """Find what makes the result depend on the order in which rows come.

    Parameters
    ----------
    tree, sql
        A statement's syntax tree, and its text.

    Returns
    -------
    str | None
        What was found and what to write instead; None where nothing was. An ORDER BY is taken to
        settle the order, an aggregate's where it holds the value or two keys: whether ties remain
        is seen by running the SQL, not by reading it.
    """
    text = sql.encode()
    for node in walk(tree):
        kinds = [modifier["type"] for modifier in node.get("modifiers", ())]
        on = any(m.get("distinct_on_targets") for m in node.get("modifiers", ()))
        if "ORDER_MODIFIER" not in kinds and (on or any("LIMIT" in kind for kind in kinds)):
            what = "DISTINCT ON" if on else "LIMIT or OFFSET"
            return f"{what} without ORDER BY: add one that leaves no ties"
        if node.get("sample"):
            return "a sample of rows: take all, or choose by a condition on a column"
        if node.get("ref_type") == "POSITIONAL":
            return "POSITIONAL JOIN: join on columns"
        if "function_name" not in node:
            continue
        name, start = node["function_name"].lower(), node["query_location"]
        shown = text[start : start + node["query_location_length"]].decode() or f"{name}()"
        if name in _APPROXIMATE:
            return f"{shown}, which is approximate: use quantile_cont, or count and rank"
        if node["class"] == "WINDOW":
            by_rows = "ROWS" in f"{node['start']} {node['end']}"
            ordered = node["orders"] or node["arg_orders"]
            if (by_rows or name in _ORDERED_WINDOWS) and not ordered:
                return f"{shown} without ORDER BY in its window: add one that leaves no ties"
        elif name in _ORDERED_AGGREGATES:
            value, *keys = [item["expression"] for item in node["arguments"]] or [{}]
            keys = (
                _items(keys[0]) if keys and (name.startswith("arg") or name.endswith("_by")) else []
            )
            keys += [item["expression"] for item in node["order_bys"]["orders"]]
            # Two keys or more are a choice among ties; a single one rarely tells rows apart.
            if len(keys) < 2 and _shape(value) not in map(_shape, keys):
                return (
                    f"{shown}, which takes rows as they come or settles ties that way: name what "
                    "settles them, as in last(amount ORDER BY ordered_at, amount) or "
                    "arg_max(amount, (ordered_at, order_id))"
                )
    return None


def _items(expression: Any) -> list[Any]:
    """Return the parts of a row such as `(ordered_at, order_id)`, or the one expression."""
    if str(expression.get("function_name")).lower() == "row":
        return [item["expression"] for item in expression["arguments"]]
    return [expression]


def _shape(expression: Any) -> str:
    """Return an expression without where it stands; a column without its table."""
    if expression.get("class") == "COLUMN_REF":
        return str(expression["column_names"][-1]).lower()
    return re.sub(r'"query_location(_length)?": \d+', "", json.dumps(expression))
