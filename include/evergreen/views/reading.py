"""Rows for pages: of some days, as plain values; a table that does not exist yet has none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from evergreen import lake
from evergreen.contract import UseCase

Row = dict[str, Any]

_ONE_DAY = timedelta(days=1)


def read_rows(
    use_case: UseCase,
    table: str,
    first: date | None = None,
    last: date | None = None,
    columns: Sequence[str] = ("*",),
    equal: Mapping[str, str | int] | None = None,
) -> list[Row]:
    """Return the rows of the days from `first` to `last`, both included, oldest day first.

    Parameters
    ----------
    columns
        All of them unless some are named; `day` is always among them.
    equal
        Values that rows must have, by column.
    """
    owner = use_case.owner_of(table)
    if not lake.exists(owner, table):
        return []
    end = None if last is None else last + _ONE_DAY
    wanted = columns if "*" in columns else [*dict.fromkeys(("day", *columns))]
    rows: list[Row] = lake.read(owner, table, first, end, wanted, equal=equal).to_pylist()
    return sorted(rows, key=lambda row: row["day"])


def read_refusals(
    use_case: UseCase, first: date | None = None, last: date | None = None
) -> list[Row]:
    """Return the days from `first` to `last` that were delivered and not accepted.

    Each with its `table`, the `rules` of its batch that it broke, and in words what was `found`.
    """
    rows = read_rows(use_case, "refused", first, last, ("table", "rules", "row_id", "raw"))
    return [
        {**row, "found": "; ".join(json.loads(row["raw"]).values())}
        for row in rows
        if row["row_id"] is None
    ]
