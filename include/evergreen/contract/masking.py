"""Values of columns that are declared `personal` are not shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from evergreen.contract.tables import AnyTable, Events

MASK = "•••"
# What a row is made of that could not be made columns of.
_TEXT = "_text"


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

    A row that could not be split may hold anything anywhere, so its text is hidden whole where any
    column is personal.
    """
    personal = personal_columns(table)
    hidden = {table.columns[name].source for name in personal if name in table.columns}
    if personal:
        hidden.add(_TEXT)
    found: dict[str, Any] = json.loads(raw)
    return {name: MASK if name in hidden else value for name, value in found.items()}
