"""How a use case stands: who is in charge and why, how it does, what is owed, what was decided."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Literal

from evergreen.contract import UseCase
from evergreen.decisions.governor import (
    RetrainingEvidence,
    RetrainingVerdict,
    decide_retraining,
)
from evergreen.monitoring.night import decided_on
from evergreen.monitoring.reference import SCORE
from evergreen.provenance.staleness import mend_commands, summarise
from evergreen.release import ledger
from evergreen.settings import load_settings
from evergreen.views import days as partitions
from evergreen.views.decided import judged, judged_on, newest_night
from evergreen.views.measured import Measurement, measurements
from evergreen.views.quality import has_data_docs
from evergreen.views.reading import Row, read_rows
from evergreen.views.remembered import remembered

_WEEK = timedelta(days=7)
# Days before the newest measured one among which the champion's newest is looked for.
_LOOKED_BACK = timedelta(days=31)
# How far ahead it is looked for the day on which a training may be asked for again.
_AHEAD = 366


@dataclass(frozen=True)
class Realised:
    """What scores were worth, on the newest day whose labels are known."""

    day: date
    rows: int
    degraded: bool
    metrics: list[Measurement]


@dataclass(frozen=True)
class Champion:
    """The version in charge: since when (UTC), by whom, why, what it promised, what it keeps."""

    version: int
    since: datetime
    action: ledger.Action
    actor: str
    reason: str
    holdout: list[Measurement]
    realised: Realised | None


@dataclass(frozen=True)
class Pending:
    """A version that has passed the gate and waits for a person."""

    version: int
    day: date
    mode: Literal["approve", "shadow"]
    reasons: list[str]


@dataclass(frozen=True)
class Standing:
    """What a table holds now, and what the newest night found of its freshness."""

    table: str
    days: int
    rows: int
    first_day: date | None
    newest_day: date | None
    lag_days: int | None = None
    allowed_days: int | None = None
    owed_days: int = 0
    stale: bool = False
    reason: str = ""


@dataclass(frozen=True)
class LastNight:
    """What the governor said on the newest night, and what it had seen."""

    day: date
    decision: str
    triggers: list[str]
    reasons: list[str]
    incidents: list[str]
    drifted: list[str]
    learnable_from: date | None
    has_report: bool


@dataclass(frozen=True)
class Budget:
    """Trainings that were asked for in the seven days up to the newest night, of those allowed.

    `next_day` is the first day on which one may be asked for, as things are; None if that is the
    night after the newest one.
    """

    asked: int
    allowed: int
    next_day: date | None


@dataclass(frozen=True)
class Stretch:
    """Neighbouring days that no longer follow from their inputs, for one reason."""

    table: str
    first_day: date
    last_day: date
    reason: str


@dataclass(frozen=True)
class Overview:
    """One use case at a glance; `mend` are commands, one after the other."""

    use_case: str
    title: str
    description: str
    owner: str
    zone: str
    base: str | None
    main_metric: str
    champion: Champion | None
    pending: Pending | None
    night: LastNight | None
    budget: Budget | None
    tables: list[Standing]
    stale: list[Stretch]
    mend: list[str]
    data_docs: bool


def overview(use_case: UseCase) -> Overview:
    """Return how a use case stands."""
    found = _overview(use_case)
    # Pages are written after the tables that would tell of them.
    newest = found.night
    if newest and load_settings().night_report(use_case.name, newest.day).is_file():
        newest = replace(newest, has_report=True)
    return replace(found, night=newest, data_docs=has_data_docs(use_case))


@remembered
def _overview(use_case: UseCase) -> Overview:
    entries = ledger.releases(ledger.engine(), use_case.name)
    newest = newest_night(use_case)
    seen = decided_on(use_case, newest) if newest else None
    stale = partitions.stale(use_case)
    return Overview(
        use_case=use_case.name,
        title=use_case.title,
        description=use_case.description,
        owner=use_case.owner,
        zone=use_case.zone,
        base=use_case.base,
        main_metric=use_case.target.main_metric,
        champion=_champion(use_case, entries[-1]) if entries else None,
        pending=_pending(use_case, entries),
        night=_last_night(use_case, *seen) if seen else None,
        budget=_budget(use_case, *seen) if seen else None,
        tables=_standings(use_case, newest),
        stale=[
            Stretch(found.table, found.period.start, found.period.last, found.reason)
            for found in summarise(use_case, stale)
        ],
        mend=mend_commands(use_case, stale),
        data_docs=False,
    )


def _champion(use_case: UseCase, entry: ledger.Entry) -> Champion:
    evidence = judged(use_case, entry.version)
    holdout = (
        measurements(use_case, evidence[0].challenger, evidence[0].intervals) if evidence else []
    )
    return Champion(
        *(entry.version, entry.recorded_at, entry.action, entry.actor, entry.reason),
        holdout=holdout,
        realised=_realised(use_case, entry.version),
    )


def _realised(use_case: UseCase, version: int) -> Realised | None:
    measured = partitions.published(use_case)["performance"]
    if not measured:
        return None
    rows = [
        row
        for row in read_rows(use_case, "performance", max(measured) - _LOOKED_BACK)
        if row["slice"] == "all" and row["model_version"] == version
    ]
    newest = [row for row in rows if row["day"] == rows[-1]["day"]]
    if not newest:
        return None
    return Realised(
        newest[0]["day"],
        newest[0]["rows"],
        any(row["degraded"] for row in newest),
        measurements(
            use_case,
            {row["metric"]: row["value"] for row in newest},
            {row["metric"]: (row["lower"], row["upper"]) for row in newest},
        ),
    )


def _pending(use_case: UseCase, entries: list[ledger.Entry]) -> Pending | None:
    """Find the newest challenger that passed, unless it or a later one has been in charge."""
    mode = use_case.gate.mode
    if mode == "auto":
        return None
    settled = max((entry.version for entry in entries), default=0)
    for version in sorted(judged_on(use_case), reverse=True):
        found = judged(use_case, version) if version > settled else None
        if found and found[1].decision == "promote":
            return Pending(version, found[0].day, mode, [*found[1].reasons])
    return None


def _last_night(
    use_case: UseCase, evidence: RetrainingEvidence, verdict: RetrainingVerdict
) -> LastNight:
    drifted = [
        row["feature"]
        for row in read_rows(use_case, "drift", evidence.day, evidence.day)
        if row["drifted"] and row["slice"] == "all"
    ]
    return LastNight(
        evidence.day,
        verdict.decision,
        [*verdict.triggers],
        [*verdict.reasons],
        [*evidence.incidents],
        sorted(dict.fromkeys(drifted), key=lambda name: (name != SCORE, name)),
        verdict.learnable_from,
        has_report=False,
    )


def _budget(use_case: UseCase, evidence: RetrainingEvidence, verdict: RetrainingVerdict) -> Budget:
    """Ask the governor itself when a training could be asked for, if there were a reason."""
    asked = {*evidence.requests, *([evidence.day] if verdict.decision == "retrain" else [])}
    tomorrow, held = evidence.day + timedelta(days=1), {"cooldown", "budget"}
    for ahead in range(_AHEAD):
        day = tomorrow + timedelta(days=ahead)
        then = replace(evidence, day=day, newest_day=day, requests=tuple(sorted(asked)))
        if not held & {*decide_retraining(then, use_case.monitoring).blocks}:
            break
    return Budget(
        sum(day > evidence.day - _WEEK for day in asked),
        use_case.monitoring.weekly_budget,
        day if day > tomorrow else None,
    )


def _standings(use_case: UseCase, newest_night: date | None) -> list[Standing]:
    found: dict[str, Row] = {}
    if newest_night is not None:
        rows = read_rows(use_case, "freshness", newest_night, newest_night)
        found = {row["table"]: row for row in rows}
    standings = []
    for table, receipts in partitions.published(use_case).items():
        held = [day for day, receipt in receipts.items() if receipt.content]
        standing = Standing(
            table,
            len(held),
            sum(partitions.rows_of(receipt) for receipt in receipts.values()),
            held[0] if held else None,
            held[-1] if held else None,
        )
        if row := found.get(table):
            standing = replace(
                standing,
                lag_days=row["lag_days"],
                allowed_days=row["allowed_days"],
                owed_days=len(row["owed"] or ()),
                stale=row["stale"],
                reason=row["reason"],
            )
        standings.append(standing)
    return standings
