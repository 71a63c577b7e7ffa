"""Monitoring: one night's measurements, the governor's verdict, and perhaps a request."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import fields
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from evergreen.contract import Period, UseCase, load_use_case, parse_day
from evergreen.errors import IncidentError, NotReadyError, PermanentError, ValidationError
from evergreen.provenance.staging import Staged, publish_chunk

if TYPE_CHECKING:
    from evergreen.decisions.governor import Champion, Evidence, Performance, State, Verdict
    from evergreen.decisions.stored import Stored
    from evergreen.monitoring.drift import DriftRow
    from evergreen.training.fit import LoadedModel

logger = logging.getLogger(__name__)

_Row = TypeVar("_Row", bound="Stored")

# A night measures so many scored days, its own and those before it that are owed.
PERFORMANCE_DAYS = 31
# Measured by nights, and mended by them.
_OF_NIGHTS = ("drift", "performance")
_REQUEST = ("governor", "retrain")
_TOLD_BY: dict[str, State] = {
    "accept_request": "started",
    "fail_request": "failed",
    "judge_challenger": "judged",
}


def measure_drift(use_case: str, day: str) -> dict[str, Any]:
    """Hold features and scores of the last nights against the champion's training reference.

    The governor asks for persistence over several nights. All of them are measured here, against
    the same reference, so the verdict of a night does not depend on which nights ran before it.
    """
    from evergreen.decisions.governor import summarise_nights
    from evergreen.monitoring.drift import drift_table
    from evergreen.provenance import receipts
    from evergreen.training.tracking import load_version

    declared, tonight = load_use_case(use_case), parse_day(day)
    version = _version_of_night(declared, tonight)
    if version is None:
        return {"nights": [], "incidents": [], "bad": []}
    basis = receipts.newest_sequence(use_case)
    model = load_version(declared, version)
    nights: list[dict[str, Any]] = []
    for night in Period(
        tonight - timedelta(days=declared.monitoring.persistence[1] - 1),
        tonight + timedelta(days=1),
    ).days:
        try:
            rows = _drift_of(declared, model, night)
        except PermanentError as error:
            if night == tonight:
                return {"nights": [], **_incident(error, "features", tonight)}
            logger.warning("drift of %s could not be measured: %s", night, error)
            continue
        table = drift_table(night, version, rows)
        nights.extend(table.to_pylist())
        if night == tonight:
            _publish(declared, day, "measure_drift", "drift", table, tonight, basis, version)
    summaries = summarise_nights(nights, declared.monitoring)
    return {"nights": [night.to_dict() for night in summaries], "incidents": [], "bad": []}


def measure_performance(use_case: str, day: str) -> dict[str, Any]:
    """Compare scores with what happened: of the day whose labels matured today, and of owed ones.

    A day is owed when its labels came after its night, or when it says something else than it was
    measured on. Of those, every night measures the last `PERFORMANCE_DAYS` up to its own, and what
    a row says does not depend on the night; so nights may come in any order, and at once.
    """
    from evergreen.provenance.staleness import find_stale

    declared, tonight = load_use_case(use_case), parse_day(day)
    matured = tonight - timedelta(days=declared.label.horizon_days)
    oldest = matured - timedelta(days=PERFORMANCE_DAYS - 1)
    owed = {s.day for s in find_stale(declared) if s.table == "performance"}
    for scored in sorted(d for d in owed if oldest <= d < matured):
        try:
            _measure_day(declared, day, scored, owed=True)
        except PermanentError as error:
            # It stays owed, and is listed; that is no reason to judge this night without its own.
            logger.warning("the performance of %s could not be measured: %s", scored, error)
    try:
        summary = _measure_day(declared, day, matured, owed=matured in owed)
    except PermanentError as error:
        return {"performance": None, **_incident(error, "labels", matured)}
    return {"performance": summary and summary.to_dict(), "incidents": [], "bad": []}


def measure_freshness(use_case: str, day: str) -> dict[str, Any]:
    """Measure how far each table lies behind the day."""
    from evergreen.monitoring.freshness import freshness_table
    from evergreen.monitoring.freshness import measure_freshness as measure
    from evergreen.provenance import receipts
    from evergreen.release import ledger

    declared, tonight = load_use_case(use_case), parse_day(day)
    tables, owed_after = ["orders", "features"], {}
    if releases := ledger.entries(ledger.engine(), use_case):
        tables.append("predictions")
        # Days that had come before there was a champion are owed no scores.
        seen = receipts.newest_day(use_case, "publish_features", releases[0].recorded_at)
        owed_after = {"predictions": seen} if seen else {}
    newest = {table: receipts.newest_day(use_case, f"publish_{table}") for table in tables}
    rows = measure(newest, tonight, declared.monitoring.max_staleness_days, owed_after)
    table = freshness_table(tonight, rows)
    _publish(declared, day, "measure_freshness", "freshness", table, tonight)
    bad = []
    for row in rows:
        last = row.newest_day or owed_after.get(row.table)
        if row.stale:
            first = last + timedelta(days=1) if last else declared.first_day
            bad.append([row.table, Period(first, tonight + timedelta(days=1)).label])
    return {"incidents": [row.reason for row in rows if row.stale], "bad": bad}


def measure_staleness(use_case: str, day: str) -> dict[str, Any]:
    """List the days of tables whose inputs have changed since, with the commands that mend them.

    Not those of `drift` and `performance`: other nights mend them, and what a night records must
    not depend on which of them ran before it.
    """
    from evergreen.provenance.staleness import find_stale, staleness_table, summarise

    declared, tonight = load_use_case(use_case), parse_day(day)
    stale = [item for item in find_stale(declared) if item.table not in _OF_NIGHTS]
    findings = summarise(declared, stale)
    for finding in findings:
        logger.warning(
            "stale: %s of %s (%s); mend it with: %s",
            *(finding.table, finding.period.label, finding.reason, "; ".join(finding.mend)),
        )
    _publish(
        declared,
        day,
        "measure_staleness",
        "staleness",
        staleness_table(tonight, findings),
        tonight,
    )
    return {"stale": len(findings)}


def decide_retraining(
    use_case: str, day: str, measured: list[dict[str, Any] | None]
) -> dict[str, Any]:
    """Let the governor weigh the night, and keep evidence and verdict in `decisions`.

    A measurement that failed is None: an incident, and no reason to conceal the others.

    A decision to retrain stays on record, and so does every decision of a night that is past:
    looking again with what is known now cannot unmake what was decided.
    """
    from evergreen.decisions import governor
    from evergreen.provenance import receipts

    declared, tonight = load_use_case(use_case), parse_day(day)
    found = [
        measurement
        or {"incidents": [f"{what} was not measured; see measure_{what}'s log"], "bad": []}
        for what, measurement in zip(("drift", "performance", "freshness"), measured, strict=True)
    ]
    incidents = [incident for measurement in found for incident in measurement["incidents"]]
    drift, performance, _ = found
    # One at a time: another run of this night may be deciding, and must not be overwritten.
    with receipts.recording(f"{use_case}.decisions of the governor"):
        states = _training_states(use_case)
        requests = _requests_before(use_case, tonight)
        trainings = dict.fromkeys(requests, "asked") | states
        evidence = governor.Evidence(
            use_case=use_case,
            day=tonight,
            newest_day=receipts.newest_day(use_case, "publish_features"),
            nights=tuple(governor.Night.from_dict(night) for night in drift.get("nights", ())),
            performance=(
                governor.Performance.from_dict(performance["performance"])
                if performance.get("performance")
                else None
            ),
            champion=_champion_of(declared, tonight),
            requests=requests,
            incidents=tuple(incidents),
            trainings=tuple(
                governor.Training(asked_for, state)
                for asked_for, state in sorted(trainings.items())
                if asked_for < tonight and state in ("asked", "started")
            ),
        )
        verdict = governor.decide_retraining(evidence, declared.monitoring)
        is_past = "not_newest" in verdict.blocks
        recorded = _recorded_decision(use_case, tonight)
        if recorded and (is_past or recorded[1].decision == "retrain"):
            evidence, verdict = recorded
            logger.info("the decision of %s is on record and stays as it is", tonight)
        else:
            _publish(
                declared,
                day,
                "decide_retraining",
                "decisions",
                governor.record_retraining_decision(evidence, declared.monitoring, verdict),
                tonight,
                part={"kind": "governor"},
            )
    logger.info("%s", _report(declared, evidence, verdict))
    if verdict.decision == "retrain" and tonight in states:
        logger.info(
            "the training of %s is %s, and is not started again; to do so, clear its run of "
            "%s_train, or trigger one by hand",
            *(tonight, states[tonight], use_case),
        )
    return {
        "use_case": use_case,
        "day": day,
        "decision": verdict.decision,
        "trigger": verdict.trigger,
        "reasons": list(verdict.reasons),
        "incidents": incidents,
        "mend": _what_to_do(declared, tonight, found),
        "drifted": _tonights_drift(drift.get("nights", ()), tonight),
        "wanted": verdict.decision == "retrain" and not is_past and tonight not in states,
    }


def is_retraining_wanted(verdict: dict[str, Any]) -> bool:
    """Whether the governor asks for retraining that has not been taken up yet.

    Raises
    ------
    IncidentError
        The night's data were bad. The decision is on record; the run fails so that somebody looks.
    """
    if verdict["incidents"]:
        raise IncidentError(
            f"{verdict['use_case']}, night of {verdict['day']}: "
            + "; ".join(verdict["incidents"])
            + ". Bad data is no reason to retrain, so nothing is requested. Mend what is bad, then "
            "run this night again: " + "; ".join(verdict["mend"])
        )
    return bool(verdict["wanted"])


def request_retraining(verdict: dict[str, Any]) -> dict[str, Any]:
    """State the request; it is announced as an asset event and starts training for the day."""
    return {
        "use_case": verdict["use_case"],
        "period": verdict["day"],
        "trigger": verdict["trigger"],
        "reason": "; ".join(verdict["reasons"]),
    }


def _measure_day(use_case: UseCase, day: str, scored: date, *, owed: bool) -> Performance | None:
    """Publish the performance of one scored day; None if there is nothing to compare."""
    from evergreen import lake
    from evergreen.decisions.governor import Performance
    from evergreen.monitoring.performance import (
        judge_performance,
        performance_table,
        realised_performance,
    )
    from evergreen.provenance import receipts
    from evergreen.training.tracking import describe_version

    basis = receipts.newest_sequence(use_case.name)
    predictions, labels = (
        lake.read_day(use_case.name, table, scored) if lake.exists(use_case.name, table) else None
        for table in ("predictions", "labels")
    )
    rows = []
    if predictions and labels:
        rows = realised_performance(predictions, labels, use_case.entity.key)
    elif not owed:
        logger.info("%s: no scored day with matured labels (looked at %s)", use_case.name, scored)
        return None
    holdout_auc = {
        version: describe_version(use_case, version).metrics["holdout_auc"]
        for version in sorted({row.model_version for row in rows})
    }
    judged = judge_performance(rows, holdout_auc, use_case.monitoring)
    table = performance_table(scored, judged)
    _publish(use_case, day, "measure_performance", "performance", table, scored, basis)
    whole = [row for row in judged if row.slice == "all"]
    if not whole:
        return None
    overall = max(whole, key=lambda row: row.rows)
    return Performance(
        day=scored,
        model_version=overall.model_version,
        rows=overall.rows,
        auc=overall.auc,
        holdout_auc=overall.holdout_auc,
        degraded=overall.degraded,
    )


def _incident(error: PermanentError, table: str, day: date) -> dict[str, Any]:
    """Tell the governor of an incident and, where it lies in a table, which day is to be made."""
    bad = isinstance(error, NotReadyError | ValidationError)
    return {
        "incidents": [str(error).rstrip(".")],
        "bad": [[table, day.isoformat()]] if bad else [],
    }


def _what_to_do(use_case: UseCase, night: date, measured: Iterable[dict[str, Any]]) -> list[str]:
    """Return the commands that make again what was bad on a night, and then run the night again."""
    from evergreen.provenance.staleness import Stale, mend_commands

    bad = [
        Stale(table, day, "bad")
        for measurement in measured
        for table, period in measurement["bad"]
        for day in Period.parse(period).days
    ]
    again = mend_commands(use_case, [Stale("drift", night, "bad")])
    return mend_commands(use_case, bad) + again


def _drift_of(use_case: UseCase, model: LoadedModel, night: date) -> list[DriftRow]:
    import pyarrow as pa

    from evergreen import lake
    from evergreen.monitoring.drift import SCORE, measure_drift
    from evergreen.monitoring.reference import Reference
    from evergreen.settings import load_settings
    from evergreen.training.compatibility import require_computed, require_fit
    from evergreen.training.fit import predict
    from evergreen.training.frame import prepare

    features = lake.read_day(use_case.name, "features", night)
    reference = Reference.from_dict(model.reference)
    watched = {name for name, feature in use_case.features.columns.items() if feature.drift} | {
        SCORE
    }
    if not features.num_rows:
        raise NotReadyError(f"{use_case.name}.features has no rows for {night}.")
    require_fit(use_case, model.version, model.reads)
    require_computed(use_case, [(night, features)], model.feature_names)
    # Scored here with the champion, so that the score's drift is about the population and not
    # about which version happened to score the day.
    matrix = prepare(features, model.feature_names)
    scores = predict(model.booster, matrix, threads=load_settings().threads)
    current = features.append_column(SCORE, pa.array(scores))
    kept = tuple(column for column in reference.columns if column.name in watched)
    return measure_drift(Reference(kept), current, use_case.monitoring, model.importances)


def _report(use_case: UseCase, evidence: Evidence, verdict: Verdict) -> str:
    """Tell the night as text, from what its measurements left in the tables."""
    from evergreen import lake
    from evergreen.monitoring.drift import DriftRow
    from evergreen.monitoring.freshness import FreshnessRow
    from evergreen.monitoring.night import render_night
    from evergreen.monitoring.performance import PerformanceRow

    def stored(kind: type[_Row], table: str, day: date) -> list[_Row]:
        if not lake.exists(use_case.name, table):
            return []
        names = [field.name for field in fields(kind)]
        return [
            kind(**{name: row[name] for name in names})
            for row in lake.read_day(use_case.name, table, day).to_pylist()
        ]

    matured = evidence.day - timedelta(days=use_case.label.horizon_days)
    return render_night(
        evidence,
        verdict,
        stored(DriftRow, "drift", evidence.day),
        stored(PerformanceRow, "performance", matured),
        stored(FreshnessRow, "freshness", evidence.day),
    )


def _tonights_drift(nights: Iterable[dict[str, Any]], tonight: date) -> list[str]:
    for night in nights:
        if night["day"] == tonight.isoformat():
            return [*night["drifted"], *(["score"] if night["score_drifted"] else [])]
    return []


def _version_of_night(use_case: UseCase, night: date) -> int | None:
    """Return the version a night was held against; the first time, the champion of that night."""
    from evergreen.provenance import receipts

    recorded = receipts.latest(use_case.name, "measure_drift", night, night + timedelta(days=1))
    if recorded:
        return int(recorded[night].inputs["model_version"])
    champion = _champion_of(use_case, night)
    return champion.version if champion else None


def _champion_of(use_case: UseCase, night: date) -> Champion | None:
    """Return the last released of the versions that were trained by that night.

    A training that a later night asked for must not change what this one says. Before the first,
    it is the first.
    """
    from evergreen.decisions.governor import Champion
    from evergreen.release import ledger
    from evergreen.training.tracking import describe_version

    champion = None
    for entry in reversed(ledger.entries(ledger.engine(), use_case.name)):
        day = parse_day(describe_version(use_case, entry.version).tags["day"])
        champion = Champion(entry.version, day)
        if day <= night:
            break
    return champion


def _recorded_decision(use_case: str, night: date) -> tuple[Evidence, Verdict] | None:
    """Return what the governor saw and decided on a night, if it was asked before."""
    from evergreen import lake
    from evergreen.decisions.governor import Evidence, Verdict

    if not lake.exists(use_case, "decisions"):
        return None
    for row in lake.read_day(use_case, "decisions", night).to_pylist():
        if row["kind"] == "governor":
            evidence = json.loads(row["evidence"])["evidence"]
            return Evidence.from_dict(evidence), Verdict.from_dict(json.loads(row["verdict"]))
    return None


def _requests_before(use_case: str, night: date) -> tuple[date, ...]:
    """Return the earlier days that retraining was requested for."""
    from evergreen import lake

    if not lake.exists(use_case, "decisions"):
        return ()
    rows = lake.read(use_case, "decisions", end=night, columns=["day", "kind", "decision"])
    found = {r["day"] for r in rows.to_pylist() if (r["kind"], r["decision"]) == _REQUEST}
    return tuple(sorted(found))


def _training_states(use_case: str) -> dict[date, State]:
    """Tell how the training of each day stands, by the newest receipt of the tasks that know."""
    from evergreen.provenance import receipts

    newest: dict[date, tuple[int, State]] = {}
    for step, days in receipts.traces(use_case, *_TOLD_BY).items():
        for day, history in days.items():
            newest[day] = max(newest.get(day, (0, "asked")), (history[-1].sequence, _TOLD_BY[step]))
    return {day: state for day, (_, state) in newest.items()}


def _publish(
    use_case: UseCase,
    period: str,
    step: str,
    table: str,
    rows: Any,
    day: date,
    basis: int = 0,
    version: int | None = None,
    part: dict[str, Any] | None = None,
) -> None:
    counts = {day.isoformat(): {"rows": rows.num_rows}}
    inputs = {} if version is None else {"model_version": version}
    batch = Staged(use_case.name, period, "", inputs=inputs, counts=counts, basis=basis)
    publish_chunk(batch, step, table, rows, [day], part=part)
