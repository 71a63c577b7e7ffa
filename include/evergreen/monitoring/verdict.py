"""The governor's night: its evidence gathered, its decision recorded, and told."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

from evergreen import lake
from evergreen.contract import Period, UseCase
from evergreen.decisions.alarm import Night
from evergreen.decisions.governor import (
    Change,
    Performance,
    RetrainingEvidence,
    decide_retraining,
    find_degradation,
    has_passed,
    open_changes,
    read_retraining,
    record_retraining_decision,
)
from evergreen.monitoring.expected import WEEKS
from evergreen.monitoring.night import champion_of, decided_on, publish
from evergreen.monitoring.reference import SCORE
from evergreen.monitoring.report import gather_night, render_night
from evergreen.provenance import receipts
from evergreen.provenance.staleness import Stale, mend_commands
from evergreen.training import requests
from evergreen.training.split import learnable_from

logger = logging.getLogger(__name__)

# Nights show a change until it has become what is expected, and a week for luck.
_SHOWS = timedelta(weeks=WEEKS + 1)
_MEASURED = ("drift", "performance", "freshness", "skew")


def decide(
    use_case: UseCase, tonight: date, measured: Sequence[dict[str, Any] | None]
) -> dict[str, Any]:
    """Weigh what `evergreen.monitoring.night` measured, and record the decision.

    A measurement that failed is None: an incident, and no reason to conceal the others.

    A decision to retrain stays on record, and so does every decision of a night that is past:
    looking again with what is known now cannot unmake what was decided.
    """
    found = [
        measurement
        or {"incidents": [f"{what} was not measured; see measure_{what}'s log"], "bad": []}
        for what, measurement in zip(_MEASURED, measured, strict=True)
    ]
    incidents = [incident for measurement in found for incident in measurement["incidents"]]
    # One at a time: another run of this night may be deciding, and must not be overwritten.
    with receipts.recording(f"{use_case.name}.decisions of the governor"):
        evidence = _gather(use_case, tonight, found, incidents)
        verdict = decide_retraining(evidence, use_case.monitoring)
        is_past = "not_newest" in verdict.blocks
        recorded = decided_on(use_case, tonight)
        if recorded and (is_past or recorded[1].decision == "retrain"):
            evidence, verdict = recorded
            logger.info("the decision of %s is on record and stays as it is", tonight)
        else:
            table = record_retraining_decision(evidence, use_case.monitoring, verdict)
            step, part = "decide_retraining", {"kind": "governor"}
            publish(use_case, tonight, step, "decisions", table, tonight, part=part)
        state = requests.states(use_case.name).get(tonight)
    logger.info("%s", render_night(gather_night(use_case, tonight, nights=1)))
    if verdict.decision == "retrain" and state:
        logger.info(
            "the training of %s is %s, and is not started again; to do so, clear its run of "
            "%s_train, or trigger one by hand",
            *(tonight, state, use_case.name),
        )
    return {
        "use_case": use_case.name,
        "day": tonight.isoformat(),
        "decision": verdict.decision,
        "trigger": verdict.trigger,
        "reasons": list(verdict.reasons),
        "incidents": incidents,
        "mend": _what_to_do(use_case, tonight, found),
        "drifted": _drifted(found[0].get("nights", ()), tonight),
        "wanted": verdict.decision == "retrain" and not is_past and not state,
    }


def _gather(
    use_case: UseCase,
    tonight: date,
    measured: Sequence[Mapping[str, Any]],
    incidents: Sequence[str],
) -> RetrainingEvidence:
    drift, performance, *_ = measured
    summary = performance.get("performance")
    newest = receipts.newest_day(use_case.owner_of("features"), "publish_features")
    requested = requests.requested_before(use_case.name, tonight)
    trainings = requests.trainings_before(use_case.name, tonight, requested)
    champion = champion_of(use_case, tonight)
    nights = tuple(Night.from_dict(night) for night in drift.get("nights", ()))
    evidence = RetrainingEvidence(
        use_case=use_case.name,
        day=tonight,
        newest_day=newest,
        nights=nights,
        performance=Performance.from_dict(summary) if summary else None,
        champion=champion,
        requests=requested,
        incidents=tuple(incidents),
        trainings=tuple(made for made in trainings if made.state in ("asked", "started")),
        changes=_changes(use_case, tonight, drift, nights) if newest == tonight else (),
        judged=tuple(made.day for made in trainings if made.state == "judged"),
        refused=requests.refused_between(use_case.name, champion.trained_on, tonight)
        if champion
        else (),
    )
    return _with_degradation(use_case, evidence)


def _with_degradation(use_case: UseCase, evidence: RetrainingEvidence) -> RetrainingEvidence:
    """Add degraded performance to the changes that are known, if none of them may explain it."""
    realised = find_degradation(evidence, use_case.monitoring)
    is_newest = evidence.day == evidence.newest_day
    if not (realised and is_newest) or any(open_changes(evidence)):
        return evidence
    day = _learnable_from(use_case, realised.began)
    change = Change.of_performance(evidence.day, realised, day)
    return replace(evidence, changes=(*evidence.changes, change))


def _changes(
    use_case: UseCase, tonight: date, drift: Mapping[str, Any], nights: Sequence[Night]
) -> tuple[Change, ...]:
    """Return the changes that are known to the newest night: of earlier ones, and perhaps its own.

    Only the newest may ask for anything. To an older one none are known: what it records does not
    depend on which nights ran before it, nor does what newer ones do.
    """
    known: list[Change] = []
    measured: dict[date, Night] = {}
    # Before then, none has begun that is not over.
    first = tonight - (_learnable_from(use_case, tonight) - tonight) - _SHOWS
    before = tonight - timedelta(days=1)
    for row in lake.rows(use_case.name, "decisions", first, before, equal={"kind": "governor"}):
        evidence, _ = read_retraining(row)
        known += [change for change in evidence.changes if change.seen == row["day"]]
        measured |= {night.day: night for night in evidence.nights}
    measured |= {night.day: night for night in nights}
    for change in known[:]:
        if has_passed(change, measured.values(), use_case.monitoring):
            logger.info("what was seen on %s has passed: %s", change.seen, ", ".join(change.what))
            known.remove(change)
    if found := drift.get("change"):
        began = date.fromisoformat(found["began"])
        # Later nights see the same change, and see it worse.
        if not any(change.began <= tonight <= change.began + _SHOWS for change in known):
            day = _learnable_from(use_case, began)
            known.append(Change(tonight, began, day, tuple(found["what"])))
    return tuple(sorted(known, key=lambda change: change.seen))


def _learnable_from(use_case: UseCase, began: date) -> date:
    training, horizon = use_case.training, use_case.target.horizon_days
    share = use_case.monitoring.learnable_share
    return learnable_from(training, horizon, use_case.first_day, began, share)


def _what_to_do(use_case: UseCase, night: date, measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the commands that make again what was bad on a night, and then run the night again."""
    bad = [
        Stale(table, day, "bad")
        for measurement in measured
        for table, period in measurement["bad"]
        for day in Period.parse(period).days
    ]
    again = mend_commands(use_case, [Stale("drift", night, "bad")])
    mend = [command for measurement in measured for command in measurement.get("mend", ())]
    return mend_commands(use_case, bad) + mend + again


def _drifted(nights: Iterable[Mapping[str, Any]], tonight: date) -> list[str]:
    for night in nights:
        if night["day"] == tonight.isoformat():
            return [*night["drifted"], *([SCORE] if night["score_drifted"] else [])]
    return []
