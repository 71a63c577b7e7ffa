"""Rows for pages: of many days of tables that have few rows a day."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from cachetools import LRUCache, cached
from cachetools.keys import hashkey

from evergreen import lake
from evergreen.contract import UseCase

Row = dict[str, Any]

# What is kept of files, in bytes.
_KEPT = 128 << 20
_BATCH_ROWS = 131_072


def read_rows(
    use_case: UseCase,
    table: str,
    first: date | None = None,
    last: date | None = None,
    columns: Sequence[str] = (),
    equal: Mapping[str, str | int] | None = None,
) -> list[Row]:
    """Return the rows of the days from `first` to `last`, as `lake.rows` does.

    Of two years of days, all but the newest were there when they were asked for before. A file
    never changes, so its columns are read once; see `lake.rows` for what is read of large tables.

    Parameters
    ----------
    columns
        All of them unless some are named; `day` is always among them.
    equal
        Values that rows must have, by column.
    """
    end = None if last is None else last + timedelta(days=1)
    found = lake.scan(use_case.owner_of(table), table, first, end)
    if found.schema is None:
        return []
    asked = (*dict.fromkeys(("day", *columns, *(equal or {}))),)
    names = asked if columns else tuple(found.schema.names)
    paths = [path for day in sorted(found.by_day) for path in found.by_day[day]]
    none = pa.schema([found.schema.field(name) for name in names]).empty_table()
    rows = pa.concat_tables([none, *(_read_file(found, path, names) for path in paths)])
    for name, value in (equal or {}).items():
        rows = rows.filter(pc.equal(rows[name], value))
    listed: list[Row] = rows.to_pylist()
    return listed


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


@cached(
    LRUCache(_KEPT, getsizeof=lambda rows: 1 + rows.nbytes),
    key=lambda _, path, names: hashkey(path, names),
    lock=Lock(),
)
def _read_file(found: lake.Scan, path: str, names: tuple[str, ...]) -> pa.Table:
    one = lake.Scan({date.min: (path,)}, found.snapshot_id, found.schema)
    # A file has rows: a day without any has no file.
    return pa.concat_tables(lake.stream(one, names, _BATCH_ROWS))
