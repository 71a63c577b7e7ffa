"""Values of columns that are declared `personal` are not shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from evergreen.contract import AnyTable, Events

MASK = "•••"
_LINE = "line"


def personal_columns(table: AnyTable) -> list[str]:
    """Return the columns of a table that are about a person, as the contract calls them."""
    declared = dict(table.columns)
    if isinstance(table, Events) and table.rollup:
        declared |= table.rollup.columns
    return [name for name, column in declared.items() if column.personal]


def mask_row(table: AnyTable, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a published row without what is personal."""
    hidden = personal_columns(table)
    return {name: MASK if name in hidden else value for name, value in row.items()}


def mask_raw(table: AnyTable, raw: str) -> dict[str, Any]:
    """Return a row as it was delivered, without what is personal.

    A line that could not be split may hold anything, so it is hidden whole where any column is
    personal.
    """
    hidden = {table.columns[n].source for n in personal_columns(table) if n in table.columns}
    try:
        found = json.loads(raw)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return {_LINE: MASK if personal_columns(table) else raw}
    return {name: MASK if name in hidden else value for name, value in found.items()}
