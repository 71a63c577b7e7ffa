"""Whether everything that features look back on is there, and is what it should be."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from evergreen import lake
from evergreen.contract import AnyTable, Period, UseCase, join_days
from evergreen.errors import GapError, ValidationError
from evergreen.provenance import commands, receipts

_GAPS_TOLD = 5


def require_all_days(use_case: UseCase, tables: Iterable[AnyTable], wanted: Period) -> None:
    """Raise unless every day of the tables is published, from the first one on.

    Days may be ingested in any order and several at once. Features of a day look back over all of
    them, so they wait until no earlier day is missing; else the result would depend on the order.

    Raises
    ------
    GapError
        Days are missing; they may be on their way.
    """
    lacking = {
        table.name: days for table in tables if (days := _missing(use_case, table.name, wanted.end))
    }
    if not lacking:
        return
    owner = use_case.owner_of("features")
    missing = sorted({day for days in lacking.values() for day in days})
    gaps = join_days(missing)
    refused = sorted({*lake.partitions(owner, "refused")} & {*missing})
    also = (
        f" {len(refused)} of them ({refused[0]} .. {refused[-1]}) were refused: the table "
        f"{owner}.refused says why."
        if refused
        else ""
    )
    load = [commands.load(owner, gap) for gap in gaps[:_GAPS_TOLD]]
    which = next(iter(lacking)) if len(lacking) == 1 and len(use_case.tables) > 1 else ""
    raise GapError(
        f"Features of {wanted.label} look back over all days of {', '.join(lacking)} since "
        f"{use_case.first_day}, and {len(missing)} of these days are not published: "
        f"{', '.join(gap.label for gap in gaps[:_GAPS_TOLD])}"
        f"{' and more' if len(gaps) > _GAPS_TOLD else ''}.{also} While they are being ingested, "
        "this is tried again. Else load them (days whose run failed run again):\n  "
        + "\n  ".join(load)
        + "\nor, where there will never be data, decide so, day by day:\n  "
        + commands.declare_without_data(owner, missing[0], which)
        + "\n`evergreen status` then lists what is still owed, with the commands."
    )


def require_usual_row_counts(use_case: UseCase, tables: Iterable[AnyTable], wanted: Period) -> None:
    """Judge the row counts again, now that no day they are compared with is missing.

    A day that was ingested before its predecessors could not be judged then; judging it here makes
    what features are built on independent of the order in which days came.

    Raises
    ------
    ValidationError
        A published day has an unusual number of rows.
    """
    from evergreen.quality.refusal import describe_published
    from evergreen.quality.row_counts import unusual_row_counts

    for table in tables:
        standing = receipts.latest(
            use_case.owner_of(table.name),
            f"publish_{table.name}",
            use_case.first_day,
            wanted.end,
        )
        row_counts = {day: receipt.counts.get("rows_in", 0) for day, receipt in standing.items()}
        if unusual := unusual_row_counts(table, row_counts):
            raise ValidationError(describe_published(table, wanted.label, unusual))


def _missing(use_case: UseCase, table: str, end: date) -> list[date]:
    owner = use_case.owner_of(table)
    return receipts.missing_days(owner, f"publish_{table}", use_case.first_day, end)
