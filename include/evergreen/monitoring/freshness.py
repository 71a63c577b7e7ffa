"""Freshness and volume: how far each table lies behind the night, and how many rows came last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta

import pyarrow as pa

from evergreen.contract import join_days
from evergreen.decisions.stored import Stored
from evergreen.errors import NotReadyError
from evergreen.monitoring.volume import Verdict, Volume

FRESHNESS = pa.schema(
    [
        ("day", pa.date32()),
        ("table", pa.string()),
        ("newest_day", pa.date32()),
        ("lag_days", pa.int64()),
        ("allowed_days", pa.int64()),
        ("owed", pa.list_(pa.date32())),
        ("stale", pa.bool_()),
        ("rows", pa.int64()),
        ("usual_rows", pa.float64()),
        ("p_value", pa.float64()),
        ("volume", pa.string()),
        ("reason", pa.string()),
    ]
)
"""Arrow schema of the table `freshness`: one row per night and table."""

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class FreshnessRow(Stored):
    """One table; `newest_day` and `lag_days` are None when it holds no day at all."""

    table: str
    newest_day: date | None
    lag_days: int | None
    allowed_days: int
    owed: Sequence[date]
    stale: bool
    reason: str
    rows: int | None = None
    usual_rows: float | None = None
    p_value: float | None = None
    volume: Verdict | None = None


def measure_freshness(
    newest: Mapping[str, date | None],
    day: date,
    max_staleness_days: int | Mapping[str, int],
    owed_after: Mapping[str, date] | None = None,
    gaps: Mapping[str, Iterable[date]] | None = None,
    volumes: Mapping[str, Volume] | None = None,
) -> list[FreshnessRow]:
    """Measure how many days each table lies behind `day`, and which days it owes.

    Parameters
    ----------
    newest
        Newest published day per table; None when there is none.
    day
        The day the night looks at. A table that is further ahead (an old night is looked at
        again) lags 0 days.
    max_staleness_days
        How many days a table may lie behind; by table, or of all.
    owed_after
        For tables that begin later than others, the day up to which they owe nothing. Without any
        day, such a table lags behind that; every other one is stale.
    gaps
        Days before the newest that a table should have and has not.
    volumes
        Of the tables whose rows could be counted.

    Returns
    -------
    list of FreshnessRow
        By table name. A table is stale when a day it owes is older than it is allowed to be.

    Raises
    ------
    NotReadyError
        There is nothing to look at.
    """
    if not newest:
        raise NotReadyError("No table was named; freshness of nothing says nothing.")
    rows = []
    for table in sorted(newest):
        limit = max_staleness_days
        allowed = limit if isinstance(limit, int) else limit[table]
        missing = sorted(gap for gap in (gaps or {}).get(table, ()) if gap <= day)
        reached = newest[table] or (owed_after or {}).get(table)
        row = _row(table, newest[table], reached, day, allowed, missing)
        rows.append(_with_volume(row, (volumes or {}).get(table)))
    return rows


def freshness_table(day: date, rows: Sequence[FreshnessRow]) -> pa.Table:
    """Return a night's rows with the schema `FRESHNESS`."""
    return pa.Table.from_pylist([{"day": day} | asdict(row) for row in rows], schema=FRESHNESS)


def _row(
    table: str,
    newest: date | None,
    reached: date | None,
    day: date,
    allowed: int,
    gaps: Sequence[date],
) -> FreshnessRow:
    if reached is None:
        reason = f"{table} holds no day at all"
        return FreshnessRow(table, None, None, allowed, (), stale=True, reason=reason)
    lag = max(0, (day - reached).days)
    owed = (*gaps, *(reached + n * _ONE_DAY for n in range(1, lag + 1)))
    what = f"ends on {newest}" if newest else f"holds no day yet, and owes those after {reached}"
    reason = (
        f"{table} {what}, {lag} days before {day}; "
        f"{'more than' if lag > allowed else 'within'} the allowed {allowed}"
    )
    if gaps:
        labels = ", ".join(period.label for period in join_days(gaps))
        reason += f"; days before that are missing: {labels}"
    return FreshnessRow(
        table,
        newest,
        lag if newest else None,
        allowed,
        owed,
        stale=bool(owed) and (day - owed[0]).days >= allowed,
        reason=reason,
    )


def _with_volume(row: FreshnessRow, volume: Volume | None) -> FreshnessRow:
    if volume is None:
        return row
    reason = row.reason
    if volume.verdict in ("unusual", "extreme"):
        reason += f"; {describe_volume(row.table, volume)}"
    return replace(
        row,
        rows=volume.rows,
        usual_rows=volume.usual_rows,
        p_value=volume.p_value,
        volume=volume.verdict,
        reason=reason,
    )


def describe_volume(table: str, volume: Volume) -> str:
    """Say in words what is unusual of a day's rows."""
    return (
        f"the newest day of {table} has {volume.rows:,} rows, where {volume.usual_rows:,.0f} are "
        f"usual (p = {volume.p_value:.2g})"
    )
