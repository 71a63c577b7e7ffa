"""Rows for pages: of some days, as plain values; a table that does not exist yet has none."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

from evergreen import lake
from evergreen.contract import UseCase

Row = dict[str, Any]

_ONE_DAY = timedelta(days=1)


def read_refusals(
    use_case: UseCase, first: date | None = None, last: date | None = None
) -> list[Row]:
    """Return the days from `first` to `last` that were delivered and not accepted.

    Each with its `table`, the `rules` of its batch that it broke, and in words what was `found`.
    """
    rows = lake.rows(
        use_case.owner_of("refused"), "refused", first, last, ("table", "rules", "row_id", "raw")
    )
    return [
        {**row, "found": "; ".join(json.loads(row["raw"]).values())}
        for row in rows
        if row["row_id"] is None
    ]
