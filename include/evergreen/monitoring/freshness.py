"""Freshness: how far each table lies behind the night that is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date

import pyarrow as pa

from evergreen.decisions.stored import Stored
from evergreen.errors import NotReadyError

FRESHNESS = pa.schema(
    [
        ("day", pa.date32()),
        ("table", pa.string()),
        ("newest_day", pa.date32()),
        ("lag_days", pa.int64()),
        ("stale", pa.bool_()),
        ("reason", pa.string()),
    ]
)
"""Arrow schema of the table `freshness`: one row per night and table."""


@dataclass(frozen=True)
class FreshnessRow(Stored):
    """One table; `newest_day` and `lag_days` are None when it holds no day at all."""

    table: str
    newest_day: date | None
    lag_days: int | None
    stale: bool
    reason: str


def measure_freshness(
    newest: Mapping[str, date | None],
    day: date,
    max_staleness_days: int,
    owed_after: Mapping[str, date] | None = None,
) -> list[FreshnessRow]:
    """Measure how many days each table lies behind `day`.

    Parameters
    ----------
    newest
        Newest published day per table; None when there is none.
    day
        The day the night looks at. A table that is further ahead (an old night is looked at
        again) lags 0 days.
    owed_after
        For tables that begin later than others, the day up to which they owe nothing. Without any
        day, such a table lags behind that; every other one is stale.

    Returns
    -------
    list of FreshnessRow
        By table name.

    Raises
    ------
    NotReadyError
        There is nothing to look at.
    """
    if not newest:
        raise NotReadyError("No table was named; freshness of nothing says nothing.")
    return [
        _row(table, newest[table], day, max_staleness_days, (owed_after or {}).get(table))
        for table in sorted(newest)
    ]


def freshness_table(day: date, rows: Sequence[FreshnessRow]) -> pa.Table:
    """Return a night's rows with the schema `FRESHNESS`."""
    return pa.Table.from_pylist([{"day": day} | asdict(row) for row in rows], schema=FRESHNESS)


def _row(
    table: str, newest: date | None, day: date, max_staleness_days: int, owed_after: date | None
) -> FreshnessRow:
    reached = newest or owed_after
    if reached is None:
        return FreshnessRow(table, None, None, True, f"{table} holds no day at all")
    lag = max(0, (day - reached).days)
    stale = lag > max_staleness_days
    what = f"ends on {newest}" if newest else f"holds no day yet, and owes those after {reached}"
    reason = (
        f"{table} {what}, {lag} days before {day}; "
        f"{'more than' if stale else 'within'} the allowed {max_staleness_days}"
    )
    return FreshnessRow(table, newest, lag if newest else None, stale, reason)
