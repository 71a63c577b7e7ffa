"""The governor: a pure function that decides whether the night is a reason to retrain.

Three things may call for it: drift or degraded performance that persists, the champion's age. Each
of several things forbids it, whatever calls: bad data, an older night looked at again, a training
that is under way, a request not long ago. All of them are stated, the losing ones too.

A request has a life: asked (the decision), started, and an end: judged by the gate, failed, or not
waited for any longer. Ages are counted in days of data, from the day asked for to the night.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal, Self

import pyarrow as pa

from evergreen.contract import Monitoring
from evergreen.decisions.alarm import Night, drift_nights, find_alarm
from evergreen.decisions.stored import DECISIONS, Stored, decision_table

Decision = Literal["retrain", "wait"]
Trigger = Literal["degradation", "drift", "schedule"]
Block = Literal[
    "incident",
    "no_champion",
    "not_newest",
    "in_progress",
    "already_trained",
    "not_learnable",
    "cooldown",
    "budget",
]

Event = Literal["started", "failed"]
State = Literal["asked", "started", "failed", "judged"]

_WEEK = timedelta(days=7)
# How a metric that has fallen begins among what has changed; no column's name holds a blank.
_REALISED = "realised "
# Of the cooldown, one for each refused challenger.
_MOST_DOUBLINGS = 4


@dataclass(frozen=True)
class Performance(Stored):
    """Realised performance of the newest day whose labels have matured, by the main metric.

    Parameters
    ----------
    value, holdout
        Of the metric, realised and on the holdout of the same version; None: not measured.
    degraded
        Whether it was surely too low on that day.
    degraded_before
        The days right before it, gaps that may be among them left out, on which it was as well,
        oldest first; None in records of when one day was enough.
    """

    day: date
    model_version: int
    rows: int
    metric: str
    value: float | None
    holdout: float | None
    degraded: bool
    degraded_before: tuple[date, ...] | None = None

    @property
    def began(self) -> date:
        """The first of the days on which it has degraded."""
        return min([self.day, *(self.degraded_before or ())])


@dataclass(frozen=True)
class Champion(Stored):
    """The model in charge; `trained_on` is the day its training belongs to."""

    version: int
    trained_on: date


@dataclass(frozen=True)
class Change(Stored):
    """A change that nights showed: as drift, or as degraded performance.

    Parameters
    ----------
    seen
        The first night it was alarmed on.
    began
        Estimated on that night.
    learnable_from
        The first day whose challenger is fitted on labels from after it, and judged on later ones.
    what
        Columns that drifted then, perhaps the score among them; or the metric that had fallen.
    """

    seen: date
    began: date
    learnable_from: date
    what: tuple[str, ...]

    @classmethod
    def of_performance(cls, seen: date, realised: Performance, learnable_from: date) -> Self:
        """Return the change that degraded performance shows."""
        return cls(seen, realised.began, learnable_from, (f"{_REALISED}{realised.metric}",))

    @property
    def is_of_performance(self) -> bool:
        """Whether realised performance has shown it: a metric has changed, and no column."""
        return all(what.startswith(_REALISED) for what in self.what)


@dataclass(frozen=True)
class RequestedTraining(Stored):
    """The training of an earlier day: asked for by its night, or started by hand."""

    day: date
    state: State


@dataclass(frozen=True)
class RetrainingEvidence(Stored):
    """All the governor may look at.

    Parameters
    ----------
    day
        The day of the night that is looked at.
    newest_day
        Newest day of features there is; None without any.
    nights
        Nights with measured drift, any order; a night that is absent is no drift night.
    requests
        Earlier days for which retraining was requested.
    trainings
        Of earlier days, those that have neither been judged nor failed.
    incidents
        Failed freshness, failed validation, a drift measurement without data: one text each.
    changes
        What this night and earlier ones found, each change once.
    judged
        Earlier days whose training the gate has judged.
    refused
        Of them, those after the champion's whose challenger it refused.
    """

    use_case: str
    day: date
    newest_day: date | None
    nights: tuple[Night, ...] = ()
    performance: Performance | None = None
    champion: Champion | None = None
    requests: tuple[date, ...] = ()
    incidents: tuple[str, ...] = ()
    trainings: tuple[RequestedTraining, ...] = ()
    changes: tuple[Change, ...] = ()
    judged: tuple[date, ...] = ()
    refused: tuple[date, ...] = ()


@dataclass(frozen=True)
class RetrainingVerdict(Stored):
    """The decision, with everything that spoke for it (`triggers`) and against it (`blocks`).

    `trigger` is the first of `triggers` when the decision is to retrain, else None.
    `learnable_from` is the day on which a change that is known can be learned, and retraining will
    be asked for; None without such a change.
    """

    decision: Decision
    trigger: Trigger | None
    triggers: tuple[Trigger, ...]
    blocks: tuple[Block, ...]
    reasons: tuple[str, ...]
    learnable_from: date | None = None


def decide_retraining(evidence: RetrainingEvidence, monitoring: Monitoring) -> RetrainingVerdict:
    """Decide whether to request retraining for `evidence.day`.

    Parameters
    ----------
    evidence
        What is known. Not modified.
    monitoring
        What the use case demands.

    Returns
    -------
    RetrainingVerdict
        `retrain` if at least one trigger fires and nothing blocks.

    Notes
    -----
    Asked again with the same evidence it answers the same, and nothing that follows from the
    decision is evidence for it: only requests and trainings of earlier days are.
    """
    calls = tuple(_triggers(evidence, monitoring))
    triggers = tuple(trigger for trigger, _ in calls)
    due, ahead = open_changes(evidence)
    blocks = tuple(_blocks(evidence, monitoring))
    if ahead and not due and triggers and "schedule" not in triggers:
        blocks += (("not_learnable", _describe_change(ahead[0])),)
    retrain = bool(triggers) and not blocks
    reasons = tuple(f"blocked, {name}: {why}" for name, why in blocks)
    reasons += tuple(f"{trigger}: {why}" for trigger, why in calls)
    _, expired = _unfinished(evidence, monitoring)
    if triggers and expired:
        reasons += (
            f"no longer waited for: {'; '.join(map(_describe, expired))}, within "
            f"{monitoring.request_expires_days} days (see the runs of {evidence.use_case}_train)",
        )
    if not triggers:
        reasons += ("nothing calls for retraining",)
    return RetrainingVerdict(
        decision="retrain" if retrain else "wait",
        trigger=triggers[0] if retrain else None,
        triggers=triggers,
        blocks=tuple(name for name, _ in blocks),
        reasons=reasons,
        learnable_from=ahead[0].learnable_from if ahead else None,
    )


def record_retraining_decision(
    evidence: RetrainingEvidence, monitoring: Monitoring, verdict: RetrainingVerdict
) -> pa.Table:
    """Return the decision as one row of the table `decisions`."""
    return decision_table(
        day=evidence.day,
        use_case=evidence.use_case,
        kind="governor",
        decision=verdict.decision,
        trigger=verdict.trigger,
        version=evidence.champion.version if evidence.champion else None,
        reasons=verdict.reasons,
        evidence=evidence,
        demands=monitoring.model_dump(mode="json"),
        verdict=verdict,
    )


def record_event(use_case: str, day: date, event: Event, reason: str) -> pa.Table:
    """Return an event in the life of the training of a day as one row of `decisions`."""
    row = {
        "day": day,
        "use_case": use_case,
        "kind": "request",
        "decision": event,
        "reasons": [reason],
    }
    return pa.Table.from_pylist([row], schema=DECISIONS)


def read_retraining(row: Mapping[str, Any]) -> tuple[RetrainingEvidence, RetrainingVerdict]:
    """Return what the governor saw and decided, from a row of `decisions` of its kind."""
    return (
        RetrainingEvidence.from_dict(json.loads(row["evidence"])["evidence"]),
        RetrainingVerdict.from_dict(json.loads(row["verdict"])),
    )


def replay_retraining(stored: str) -> RetrainingVerdict:
    """Decide again from the column `evidence` of a stored governor decision."""
    record = json.loads(stored)
    # Demands of before that nobody makes any more had their say in the nights of the evidence.
    made = {key: d for key, d in record["demands"].items() if key in Monitoring.model_fields}
    return decide_retraining(RetrainingEvidence.from_dict(record["evidence"]), Monitoring(**made))


def _blocks(evidence: RetrainingEvidence, monitoring: Monitoring) -> Iterator[tuple[Block, str]]:
    for incident in evidence.incidents:
        yield "incident", f"{incident}; mend the data, retraining on it would learn the fault"
    champion = evidence.champion
    if champion is None:
        yield "no_champion", "there is no champion yet; the first training is started by hand"
    if evidence.newest_day is None or evidence.day < evidence.newest_day:
        yield (
            "not_newest",
            f"{evidence.day} is not the newest day ({evidence.newest_day or 'there is none'}); "
            "older nights never request retraining",
        )
    under_way, _ = _unfinished(evidence, monitoring)
    if under_way:
        until = under_way[-1].day + timedelta(days=monitoring.request_expires_days)
        yield (
            "in_progress",
            f"{'; '.join(map(_describe, under_way))}; there is one at a time, and it is waited for "
            f"until {until}",
        )
    if champion is not None and champion.trained_on >= evidence.day:
        yield (
            "already_trained",
            f"champion {champion.version} was trained on {champion.trained_on}; "
            f"{evidence.day} brings nothing new",
        )
    requests = [request for request in evidence.requests if request != evidence.day]
    due, _ = open_changes(evidence)
    # What was not better will hardly be tomorrow, unless there is something new to be learned.
    refused = [] if due else evidence.refused
    expected = monitoring.cooldown_days * 2 ** min(len(refused), _MOST_DOUBLINGS)
    newest = max([*requests, *refused], default=None)
    if newest and (evidence.day - newest).days < expected:
        why = (
            f", after {len(refused)} refused since champion {champion.version}"
            if champion and refused
            else ""
        )
        asked = "requested" if newest in requests else "tried"
        yield (
            "cooldown",
            f"retraining was {asked} on {newest}; expected {expected} days in between{why}",
        )
    week = {request for request in requests if request > evidence.day - _WEEK}
    if len(week) >= monitoring.weekly_budget:
        yield (
            "budget",
            f"{len(week)} requests within 7 days; the budget is {monitoring.weekly_budget}",
        )


def _unfinished(
    evidence: RetrainingEvidence, monitoring: Monitoring
) -> tuple[list[RequestedTraining], list[RequestedTraining]]:
    """Return the trainings that are waited for, and those that were waited for in vain."""
    trainings = sorted(evidence.trainings, key=lambda training: (training.day, training.state))
    expiry = evidence.day - timedelta(days=monitoring.request_expires_days)
    return [t for t in trainings if t.day > expiry], [t for t in trainings if t.day <= expiry]


def _describe(training: RequestedTraining) -> str:
    what = "was requested and has not started" if training.state == "asked" else "has not ended"
    return f"the training of {training.day} {what}"


def _triggers(
    evidence: RetrainingEvidence, monitoring: Monitoring
) -> Iterator[tuple[Trigger, str]]:
    champion = evidence.champion
    if champion is None:
        return
    # Measured harm first, then likely harm, then age. What concerns a former champion is history.
    if realised := find_degradation(evidence, monitoring):
        since = f", and too low since {realised.began}" if realised.began < realised.day else ""
        yield (
            "degradation",
            f"realised {realised.metric} of {realised.day} is {_show(realised.value)} over "
            f"{realised.rows} rows, against {_show(realised.holdout)} on the holdout{since}",
        )
    due, ahead = open_changes(evidence)
    if due:
        change = due[0]
        yield (
            "drift",
            f"{', '.join(change.what)} changed about {change.began} (seen on {change.seen}); "
            f"labels from after it can be learned since {change.learnable_from}",
        )
    # A change that has been acted on still shows until four weeks have passed.
    elif ahead or not evidence.changes:
        asked = evidence.nights, champion.version, evidence.day, monitoring
        if newest := find_alarm(*asked):
            needed, window = monitoring.persistence
            count = len(drift_nights(*asked))
            enough = f"needed {needed}" if count >= needed else "so far that one is enough"
            yield (
                "drift",
                f"{count} of the last {window} nights drifted ({enough}); on {newest.day}: "
                f"{', '.join(newest.what)}",
            )
    age = (evidence.day - champion.trained_on).days
    limit = monitoring.max_model_age_days
    if limit is not None and age > limit:
        yield "schedule", f"champion {champion.version} is {age} days old; the limit is {limit}"


def find_degradation(evidence: RetrainingEvidence, monitoring: Monitoring) -> Performance | None:
    """Return the realised performance if it makes an alarm: of the champion's.

    It is too low on as many of the last days as `monitoring.persistence` asks for, the newest among
    them.
    """
    found, champion = evidence.performance, evidence.champion
    if not (found and champion and found.degraded and found.model_version == champion.version):
        return None
    if found.degraded_before is None:
        return found
    needed, window = monitoring.persistence
    start = found.day - timedelta(days=window)
    days = [day for day in (found.day, *found.degraded_before) if day > start]
    return found if len(days) >= needed else None


def has_passed(change: Change, nights: Iterable[Night], monitoring: Monitoring) -> bool:
    """Whether the nights after a change was seen have shown that it was one night's.

    One extreme night is alarmed at once. It is nothing to be learned if those that follow are calm:
    so many of them that no `monitoring.persistence` can come of it any more. A night that was not
    measured says nothing.
    """
    if change.is_of_performance:
        return False
    needed, window = monitoring.persistence
    reach = timedelta(days=window)
    near = {night.day: night.is_drift for night in nights if abs(night.day - change.seen) < reach}
    shown = [day for day, is_drift in near.items() if is_drift and day <= change.seen]
    calm = sum(not is_drift for day, is_drift in near.items() if day > change.seen)
    return len(shown) < needed and calm > window - needed


def open_changes(evidence: RetrainingEvidence) -> tuple[list[Change], list[Change]]:
    """Return the changes that can be learned by now, and those that cannot yet.

    Without those that a champion or a challenger has had the chance to learn.
    """
    champion = evidence.champion
    trained = max([*evidence.judged, *([champion.trained_on] if champion else [])], default=None)
    waiting = [c for c in evidence.changes if trained is None or trained < c.learnable_from]
    waiting.sort(key=lambda change: change.learnable_from)
    due = [change for change in waiting if change.learnable_from <= evidence.day]
    return due, [change for change in waiting if change.learnable_from > evidence.day]


def _describe_change(change: Change) -> str:
    return (
        f"{', '.join(change.what)} changed about {change.began}; retraining is asked for on "
        f"{change.learnable_from}, the first day on which a challenger can learn labels from after "
        "the change and be judged on later ones"
    )


def _show(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
