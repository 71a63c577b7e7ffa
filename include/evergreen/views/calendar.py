"""Days and tables: what is there, what is not and why, and who scored it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from evergreen.contract import Period, UseCase
from evergreen.provenance.receipts import Receipt
from evergreen.views import days as partitions
from evergreen.views.reading import read_refusals
from evergreen.views.remembered import remembered

State = Literal["present", "empty", "stale", "missing", "refused", "owed", "none"]
"""Of a day of a table.

`empty`: published, without rows; `stale`: no longer follows from its inputs; `missing`: should be
there; `owed`: should be there, and may still come within `max_staleness_days`; `refused`: delivered
and not accepted; `none`: nobody expects it.
"""

_DAYS = 92
_ONE_DAY = timedelta(days=1)
_NEVER_PUBLISHED = "never published"


@dataclass(frozen=True)
class CalendarTable:
    """The days of one table, as many as the calendar has.

    Parameters
    ----------
    made_by
        Id of the DAG that makes them.
    quarantined
        Share of the source rows, in [0, 1]; of delivered tables.
    versions
        That scored the day; of predictions.
    reasons
        Why a day is stale, missing, owed or refused.
    """

    table: str
    made_by: str
    states: list[State]
    rows: list[int | None]
    quarantined: list[float | None]
    versions: list[int | None]
    reasons: dict[date, str]


@dataclass(frozen=True)
class Calendar:
    """A stretch of days; `first_day` and `newest_day` are those of all there is."""

    use_case: str
    days: list[date]
    first_day: date
    newest_day: date | None
    tables: list[CalendarTable]


@remembered
def calendar(use_case: UseCase, first: date | None = None, last: date | None = None) -> Calendar:
    """Return the days from `first` to `last`; by default the newest three months."""
    published = partitions.published(use_case)
    newest = partitions.newest_day(published)
    last = last or newest or use_case.first_day
    first = first or max(use_case.first_day, last - timedelta(days=_DAYS - 1))
    days = Period(first, last + _ONE_DAY).days if first <= last else []
    refused = {
        (row["table"], row["day"]): row["found"] for row in read_refusals(use_case, first, last)
    }
    stale = {(found.table, found.day): found.reason for found in partitions.stale(use_case)}
    return Calendar(
        use_case.name,
        days,
        use_case.first_day,
        newest,
        [
            _table(
                use_case,
                table,
                days,
                receipts,
                {day: why for (of, day), why in refused.items() if of == table},
                {day: why for (of, day), why in stale.items() if of == table}
                | _owed(use_case, table, receipts, newest),
            )
            for table, receipts in published.items()
        ],
    )


def maker_of(use_case: UseCase, table: str) -> str:
    """Return the id of the DAG whose runs make days of a table."""
    if table in use_case.tables:
        return f"{use_case.owner_of(table)}_ingest"
    if table == "labels":
        return f"{use_case.name}_{'features' if use_case.base is None else 'labels'}"
    stages = {"features": "features", "predictions": "score"}
    return f"{use_case.owner_of(table)}_{stages.get(table, 'monitor')}"


def _table(
    use_case: UseCase,
    table: str,
    days: list[date],
    receipts: Mapping[date, Receipt],
    refused: Mapping[date, str],
    stale: Mapping[date, str],
) -> CalendarTable:
    found = [receipts.get(day) for day in days]
    states = [
        _state(use_case, table, day, receipt, day in refused, stale.get(day))
        for day, receipt in zip(days, found, strict=True)
    ]
    why = {**stale, **refused}
    return CalendarTable(
        table,
        maker_of(use_case, table),
        states,
        [None if receipt is None else partitions.rows_of(receipt) for receipt in found],
        [_share(receipt) for receipt in found],
        [_version(receipt) if table == "predictions" else None for receipt in found],
        {day: why[day] for day in days if day in why},
    )


def _state(
    use_case: UseCase,
    table: str,
    day: date,
    receipt: Receipt | None,
    is_refused: bool,
    stale: str | None,
) -> State:
    if is_refused:
        return "refused"
    if receipt is None:
        if stale is None:
            return "none"
        return "owed" if stale == _within(use_case, table) else "missing"
    if stale is not None:
        return "stale"
    return "present" if receipt.content else "empty"


def _owed(
    use_case: UseCase, table: str, receipts: Mapping[date, Receipt], newest: date | None
) -> dict[date, str]:
    """Return the days after a table's newest up to the newest of all, and why they are owed."""
    allowed = _allowed(use_case, table)
    if allowed is None or not receipts or newest is None:
        return {}
    after = max(receipts) + _ONE_DAY
    days = Period(after, newest + _ONE_DAY).days if after <= newest else []
    return {
        day: _within(use_case, table)
        if (newest - day).days < allowed
        else f"{_NEVER_PUBLISHED}; {newest} is there, and {allowed} days behind are allowed"
        for day in days
    }


def _within(use_case: UseCase, table: str) -> str:
    return f"to come; it may be {_allowed(use_case, table)} days behind"


def _allowed(use_case: UseCase, table: str) -> int | None:
    if table in use_case.events or table in ("features", "predictions"):
        return use_case.max_staleness_days(table)
    return None


def _share(receipt: Receipt | None) -> float | None:
    rows = receipt.counts.get("rows_in") if receipt else None
    return receipt.counts["quarantined"] / rows if receipt and rows else None


def _version(receipt: Receipt | None) -> int | None:
    return receipt.inputs.get("model_version") if receipt else None
