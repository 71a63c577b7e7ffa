"""Which days of which tables no longer follow from what they were made of, why, and what mends it.

A day is stale when something it was made from has changed since: another day's content (events
that were ingested again and say something else), or the declaration it was made by. Content counts,
not the fact of a run: a day that was published again and says the same makes nothing stale. What
depends on a stale day is stale, too.

Everything here is read from the receipts; see `receipts` for what makes that exact.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import accumulate
from typing import NamedTuple

import pyarrow as pa

from evergreen import lake
from evergreen.contract import (
    Events,
    Period,
    UseCase,
    join_days,
    list_use_cases,
    load_use_case,
)
from evergreen.provenance import commands, receipts
from evergreen.provenance.receipts import Trace

_ONE_DAY = timedelta(days=1)

NIGHTLY = {"drift": "measure_drift", "performance": "measure_performance"}
"""Tables that nights measure from others, and the steps that do."""

_Traces = Mapping[date, Sequence[Trace]]


@dataclass(frozen=True)
class Stale:
    """One day of one table that no longer follows from its inputs.

    Parameters
    ----------
    reason
        A sentence part for people: what has changed.
    causes
        Days of the input that have changed, oldest first; empty if it was the declaration.
    """

    table: str
    day: date
    reason: str
    causes: tuple[date, ...] = ()


@dataclass(frozen=True)
class Finding:
    """Neighbouring stale days of one table, with one reason and the commands that mend them."""

    table: str
    period: Period
    reason: str
    mend: tuple[str, ...]


STALENESS = pa.schema(
    [
        ("day", pa.date32()),
        ("table", pa.string()),
        ("first_day", pa.date32()),
        ("last_day", pa.date32()),
        ("reason", pa.string()),
        ("mend", pa.list_(pa.string())),
    ]
)
"""Arrow schema of the table `staleness`: one row per finding of a night."""


class _Reads(NamedTuple):
    """A table that is read: all its days up to `reach` days after, or just the day itself."""

    table: str
    reach_days: int | None = None


def find_stale(use_case: UseCase) -> list[Stale]:
    """Return all stale and missing days, in the order in which they must be mended.

    Of a use case that builds on another, its own tables only; what they are made of may be the
    other's.

    Notes
    -----
    Missing are days of delivered tables between the first day and the newest, days of features and
    labels that could be there since the table was begun, and, once there are nights, the
    performance of days with scores and labels; nobody is owed scores or drift.
    Cost: O(receipts), and O(changed days) for each stale one.
    """
    reads = _reads(use_case)
    traces = _traces(use_case, reads)
    found: dict[str, dict[date, Stale]] = {}
    for table, sources in reads.items():
        standing = traces[table]
        contract = use_case.contract_digest(table)
        stale = {
            day: Stale(table, day, f"use_case.yaml or SQL has changed what {table} are")
            for day, history in standing.items()
            if history[-1].contract_digest != contract
        }
        for day in _owed(use_case, table, traces):
            if day not in standing:
                stale[day] = Stale(table, day, "never published")
        for day in _without_receipt(use_case, table, standing):
            stale.setdefault(
                day, Stale(table, day, "committed by a run that died before its receipt")
            )
        for read in sources:
            changes = _Changes(traces[read.table], found[read.table])
            for day, history in standing.items():
                causes = changes.since(history[-1].basis, day, read.reach_days)
                if causes:
                    stale.setdefault(day, Stale(table, day, _because(read.table, causes), causes))
        found[table] = dict(sorted(stale.items()))
    return [
        stale
        for table, days in found.items()
        if use_case.owner_of(table) == use_case.name
        for stale in days.values()
    ]


def step_of(table: str) -> str:
    """Return the step whose receipts say that a day of a table was published."""
    return NIGHTLY.get(table, f"publish_{table}")


def _traces(use_case: UseCase, tables: Iterable[str]) -> dict[str, _Traces]:
    steps = {table: step_of(table) for table in tables}
    by_owner: defaultdict[str, list[str]] = defaultdict(list)
    for table, step in steps.items():
        by_owner[use_case.owner_of(table)].append(step)
    found = {
        step: days
        for owner, owned in by_owner.items()
        for step, days in receipts.traces(owner, *owned).items()
    }
    return {table: found[step] for table, step in steps.items()}


def mend_commands(use_case: UseCase, stale: Iterable[Stale]) -> list[str]:
    """Return the commands that leave nothing stale, to be run one after the other.

    Days that were scored are backfilled one run each, which scores them again; long ranges of
    others are loaded by one run of the history DAG.
    """
    horizon = timedelta(days=use_case.target.horizon_days)
    days: defaultdict[str, set[date]] = defaultdict(set)
    for item in stale:
        days[item.table].add(item.day)
    # A day's label is published by the run of the day that completes its horizon.
    labels = {day + horizon for day in days["labels"]}
    load = days["quarantine"] | days["refused"] | days["features"] | labels
    for table in use_case.tables.values():
        load |= days[table.name]
        if isinstance(table, Events) and table.daily is not None:
            load |= {table.daily.first_reader(day) for day in days[f"{table.name}_totals"]}
    nights = days["drift"] | days["freshness"] | days["staleness"]
    nights |= {day + horizon for day in days["performance"]}
    each = set(days["predictions"])
    bulk = load - each
    if len(bulk) < commands.MANY_DAYS:
        each, bulk = each | bulk, set()
    mends = []
    if bulk:
        # Only labels are made by a use case that builds on another.
        of = use_case.name if use_case.base is None or bulk <= labels else use_case.base
        mends.append(commands.load_history(of, Period(min(bulk), max(bulk) + _ONE_DAY)))
    ingested = use_case.base or use_case.name
    mends += [commands.backfill(ingested, period, "completed") for period in join_days(each)]
    nightly = f"{use_case.name}_monitor"
    return mends + [commands.backfill(nightly, p, "completed") for p in join_days(nights)]


def mend_damage(use_case: str, table: str, day: date) -> list[str]:
    """Return the commands that make a day again; none if only a backup has it.

    Decisions are such: what a night or a gate decided is not decided again.
    """
    if use_case not in list_use_cases():
        return []
    return mend_commands(load_use_case(use_case), [Stale(table, day, "")])


def summarise(use_case: UseCase, stale: Sequence[Stale]) -> list[Finding]:
    """Join neighbouring days that share table and reason, in the order of `find_stale`."""
    kinds: dict[tuple[str, str], list[Stale]] = {}
    for item in stale:
        kinds.setdefault((item.table, item.reason), []).append(item)
    return [
        Finding(
            table,
            period,
            reason,
            tuple(
                mend_commands(use_case, [s for s in items if period.start <= s.day < period.end])
            ),
        )
        for (table, reason), items in kinds.items()
        for period in join_days(item.day for item in items)
    ]


def staleness_table(night: date, findings: Sequence[Finding]) -> pa.Table:
    """Return the findings of a night as rows of the table `staleness`."""
    rows = [
        {
            "day": night,
            "table": finding.table,
            "first_day": finding.period.start,
            "last_day": finding.period.last,
            "reason": finding.reason,
            "mend": list(finding.mend),
        }
        for finding in findings
    ]
    return pa.Table.from_pylist(rows, schema=STALENESS)


def _reads(use_case: UseCase) -> dict[str, tuple[_Reads, ...]]:
    """Return the tables in the order in which they are made, and what each is made of."""
    horizon = use_case.target.horizon_days
    return {
        **dict.fromkeys(use_case.tables, ()),
        "features": tuple(_Reads(t.name, 0) for t in use_case.read_by(use_case.features_sql)),
        "labels": tuple(
            _Reads(t.name, horizon if isinstance(t, Events) else 0)
            for t in use_case.read_by(use_case.labels_sql)
        ),
        "predictions": (_Reads("features"),),
        "drift": (_Reads("features"),),
        "performance": (_Reads("predictions"), _Reads("labels")),
    }


def _owed(use_case: UseCase, table: str, traces: Mapping[str, _Traces]) -> list[date]:
    """Days that a table should have, by the days there are."""
    if table == "performance":
        scored, labelled = (
            {day for day, history in traces[read].items() if history[-1].content}
            for read in ("predictions", "labels")
        )
        watched = receipts.newest_day(use_case.name, "measure_freshness") is not None
        return sorted(scored & labelled) if watched else []
    newest = max((max(traces[name]) for name in use_case.tables if traces[name]), default=None)
    delivered, standing = table in use_case.tables, traces[table]
    if not (delivered or table in ("features", "labels")) or not newest or not standing:
        return []
    begin = use_case.first_day if delivered else min(standing)
    horizon = timedelta(days=use_case.target.horizon_days if table == "labels" else 0)
    end = newest + _ONE_DAY - horizon
    return Period(begin, end).days if begin < end else []


def _without_receipt(use_case: UseCase, table: str, standing: _Traces) -> set[date]:
    """Days of commits whose process was killed before it could receipt them, and never retried."""
    known = {trace.output_snapshot for history in standing.values() for trace in history}
    days: set[date] = set()
    for summary in lake.summaries_since(use_case.owner_of(table), table, known):
        if receipt := json.loads(summary.get("evergreen.receipt", "{}")):
            first, last = map(date.fromisoformat, receipt["days"])
            days.update(Period(first, last + _ONE_DAY).days)
    return days


class _Changes:
    """When the days of one table last changed, and which are stale themselves."""

    def __init__(self, traces: _Traces, stale: Mapping[date, Stale]) -> None:
        self._traces, self._stale = traces, sorted(stale)
        self._days = sorted({*traces, *stale})
        changed = [_last_change(traces[day]) if day in traces else 0 for day in self._days]
        self._newest_up_to = list(accumulate(changed, max))

    def since(self, basis: int, day: date, reach_days: int | None) -> tuple[date, ...]:
        """Return the days read for `day` that say something else than they did at `basis`."""
        if reach_days is None:
            read: list[date] = [day] if day in self._traces or day in self._stale else []
        else:
            last = day + timedelta(days=reach_days)
            count = bisect_right(self._days, last)
            unchanged = not count or self._newest_up_to[count - 1] <= basis
            if unchanged and (not self._stale or self._stale[0] > last):
                return ()
            read = self._days[:count]
        stale = set(self._stale)
        return tuple(d for d in read if d in stale or self._differs(d, basis))

    def _differs(self, day: date, basis: int) -> bool:
        history = self._traces[day]
        at_basis = [trace.content for trace in history if trace.sequence <= basis]
        return not at_basis or at_basis[-1] != history[-1].content


def _last_change(history: Sequence[Trace]) -> int:
    """Return the sequence from which on the day says what it says now."""
    settled = history[-1].sequence
    for trace in reversed(history):
        if trace.content != history[-1].content:
            break
        settled = trace.sequence
    return settled


def _because(table: str, causes: tuple[date, ...]) -> str:
    if len(causes) == 1:
        return f"{table} of {causes[0]} changed"
    return f"{table} of {len(causes)} days from {causes[0]} to {causes[-1]} changed"
