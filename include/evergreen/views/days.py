"""What every table holds of every day, by the receipts: the ground that other views stand on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from evergreen.contract import UseCase
from evergreen.provenance import receipts
from evergreen.provenance.receipts import Receipt
from evergreen.provenance.staleness import NIGHTLY, Stale, find_stale, step_of
from evergreen.views.remembered import remembered

Receipts = Mapping[str, Mapping[date, Receipt]]


def shown_tables(use_case: UseCase) -> list[str]:
    """Return the tables whose days are shown, in the order in which they are made."""
    return [*use_case.tables, "features", "labels", "predictions", *NIGHTLY]


@remembered
def published(use_case: UseCase) -> Receipts:
    """Return the receipt that counts of each day, oldest first, by table."""
    return {
        table: receipts.latest(use_case.owner_of(table), step_of(table))
        for table in shown_tables(use_case)
    }


@remembered
def stale(use_case: UseCase) -> list[Stale]:
    """Return what no longer follows from its inputs; see `find_stale`."""
    return find_stale(use_case)


def rows_of(receipt: Receipt) -> int:
    """Return the rows of a day; a day without any has no content."""
    if not receipt.content:
        return 0
    return int(receipt.counts.get("published", receipt.counts.get("rows", 0)))


def newest_day(days: Receipts) -> date | None:
    """Return the newest day that any table holds."""
    return max((max(of) for of in days.values() if of), default=None)
