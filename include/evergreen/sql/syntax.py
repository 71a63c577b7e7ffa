"""What the SQL of a use case may not do, read off DuckDB's syntax tree."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from evergreen.sql.connection import opened


def walk(tree: Any) -> Iterator[dict[str, Any]]:
    """Iterate over the nodes of a tree as `json_serialize_sql` gives it, parents first."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for child in tree:
            yield from walk(child)


@cache
def unstable_functions() -> frozenset[str]:
    """Return the lower-case names of functions whose value their arguments do not determine."""
    with opened("functions") as connection:
        rows = connection.execute(
            "SELECT DISTINCT lower(function_name) FROM duckdb_functions() "
            "WHERE stability <> 'CONSISTENT'"
        ).fetchall()
    return frozenset(name for (name,) in rows)
