"""Owed days of features: which of them a night starts by itself, and that it did.

What is started is on record in `decisions` (kind `recomputation`) under the day. A day's run ends,
one way or the other, long before the next night; so a night starts nothing that itself or a later
one has started, and a later night may start again what is still owed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from datetime import date, timedelta
from typing import NamedTuple

import pyarrow as pa

from evergreen.contract import UseCase
from evergreen.decisions.stored import DECISIONS
from evergreen.provenance import receipts
from evergreen.provenance.staging import Staged, publish_chunk

logger = logging.getLogger(__name__)

_STEP, _KIND = "choose_owed_features", "recomputation"
_ONE_DAY = timedelta(days=1)


class Started(NamedTuple):
    """Which night has started the recomputation of a day last, and in which run of it."""

    night: date
    run: str


def start_owed(use_case: UseCase, tonight: date, owed: Collection[date], run: str) -> list[date]:
    """Choose the owed days of features that are started now, and put them on record.

    Parameters
    ----------
    owed
        What features owe because they are further behind than they may be.
    run
        The run of the night. Tried again, it starts the same days.
    """
    limit = use_case.monitoring.max_recomputed_days
    if not limit or not owed or use_case.base or not is_newest(use_case, tonight):
        return []
    with receipts.recording(f"{use_case.name}.decisions of the monitor"):
        recorded = receipts.latest(use_case.name, _STEP, min(owed), max(owed) + _ONE_DAY)
        started = {
            day: Started(date.fromisoformat(receipt.run), receipt.inputs["run"])
            for day, receipt in recorded.items()
        }
        complete = _complete_before(use_case, tonight)
        ready = [day for day in owed if complete is None or day < complete]
        chosen = choose_days(ready, started, Started(tonight, run), limit)
        for day in chosen:
            _record(use_case, day, tonight, run)
    if left := sorted({*owed} - {*chosen}):
        logger.warning("owed and not started: %s", ", ".join(map(str, left)))
    return chosen


def choose_days(
    ready: Collection[date], started: Mapping[date, Started], now: Started, limit: int
) -> list[date]:
    """Choose at most `limit` of the days that can be made, oldest first.

    Days that were never started come before those that were, so that one that fails every time
    does not keep the others waiting.

    >>> days = [date(2026, 1, n) for n in (5, 6, 7)]
    >>> before = {days[0]: Started(date(2026, 1, 8), "a"), days[1]: Started(date(2026, 1, 9), "b")}
    >>> chosen = choose_days(days, before, Started(date(2026, 1, 9), "c"), 1)
    >>> [day.isoformat() for day in chosen]
    ['2026-01-07']
    """

    def is_under_way(day: date) -> bool:
        last = started.get(day)
        return last is not None and last.night >= now.night and last.run != now.run

    def rank(day: date) -> tuple[bool, date, date]:
        last = started.get(day)
        return (last != now, last.night if last else date.min, day)

    return sorted(sorted((day for day in ready if not is_under_way(day)), key=rank)[:limit])


def is_newest(use_case: UseCase, night: date) -> bool:
    """Whether no table that is delivered is ahead of a night."""
    owner = use_case.owner_of("features")
    newest = [receipts.newest_day(owner, f"publish_{table}") for table in use_case.tables]
    return all(day is None or day <= night for day in newest)


def _complete_before(use_case: UseCase, tonight: date) -> date | None:
    """Return the first day that a delivered table lacks; None if all have all."""
    first, end = use_case.first_day, tonight + _ONE_DAY
    lacking = (
        receipts.missing_days(use_case.name, f"publish_{table}", first, end)
        for table in use_case.tables
    )
    return min((days[0] for days in lacking if days), default=None)


def _record(use_case: UseCase, day: date, tonight: date, run: str) -> None:
    allowed = use_case.max_staleness_days("features")
    reason = (
        f"features of {day} were owed on the night of {tonight}, more than the allowed {allowed} "
        "days behind"
    )
    row = {
        "day": day,
        "use_case": use_case.name,
        "kind": _KIND,
        "decision": "started",
        "trigger": "freshness",
        "reasons": [reason],
    }
    publish_chunk(
        Staged(use_case.name, tonight.isoformat(), "", inputs={"run": run}),
        _STEP,
        "decisions",
        pa.Table.from_pylist([row], schema=DECISIONS),
        [day],
        part={"kind": _KIND},
    )
