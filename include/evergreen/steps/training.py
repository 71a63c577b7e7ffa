"""Training: a request to a challenger, a verdict, and perhaps a new champion."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evergreen.contract import Period, UseCase, as_of, load_use_case, parse_day
from evergreen.errors import ConfigError, LedgerConflictError
from evergreen.provenance.staging import Staged, drop_staging, new_staging, publish_chunk

if TYPE_CHECKING:
    import pyarrow as pa

    from evergreen.decisions.gate import Champion
    from evergreen.decisions.governor import Event
    from evergreen.monitoring.reference import Reference
    from evergreen.training.fit import FittedModel
    from evergreen.training.frame import LabelledFrame, LabelledSplit
    from evergreen.training.split import SplitPlan

logger = logging.getLogger(__name__)

AS_KNOWN, AS_CORRECTED = "as_known", "as_corrected"


def accept_request(
    use_case: str, day: str, reason: str, corrections: str = AS_KNOWN
) -> dict[str, Any]:
    """State what is trained, for which day, and why, and record that it has started.

    `corrections` says how days are read that were corrected after the day was processed:
    `as_known` or `as_corrected`.
    """
    declared = load_use_case(use_case)
    wanted = parse_day(day, use_case)
    if corrections not in (AS_KNOWN, AS_CORRECTED):
        raise ConfigError(
            f"corrections is {corrections!r}; expected {AS_KNOWN!r} or {AS_CORRECTED!r}."
        )
    _record_event(declared, wanted, "accept_request", "started", reason)
    logger.info("training %s for %s: %s", use_case, day, reason)
    return {"use_case": use_case, "day": day, "reason": reason, "corrections": corrections}


def fail_request(use_case: str, day: str, run: str) -> None:
    """Record that a training ended without a verdict, so that nobody waits for it."""
    reason = f"{use_case}_train {run} failed before the gate; its failed task's log says why"
    _record_event(load_use_case(use_case), parse_day(day), "fail_request", "failed", reason)


def assemble_training_set(request: dict[str, Any], run: str | None = None) -> dict[str, Any]:
    """Join the labels of the split's days with point-in-time features, through Feast."""
    from evergreen.provenance import receipts
    from evergreen.training.assemble import assemble, choose_inputs

    started = time.monotonic()
    declared, period = load_use_case(request["use_case"]), Period.parse(request["day"])
    plan = _plan(declared, period.last)
    basis = receipts.newest_sequence(declared.name)
    inputs = choose_inputs(
        declared, period.last, plan.days, corrected=request["corrections"] == AS_CORRECTED
    )
    for table, pins in inputs.pins.items():
        if pins:
            logger.info("%s of %s are read as known then", table, ", ".join(map(str, pins)))
    assembled = assemble(declared, plan, inputs)
    staged = Staged(
        declared.name,
        period.label,
        str(new_staging(declared.name, "training", period.label, run)),
        chunks=(period.label,),
        inputs=inputs.to_dict(),
        facts={
            "reason": request["reason"],
            "rows": assembled.rows.num_rows,
            "left_out": {str(day): rows for day, rows in assembled.left_out.items()},
        },
        basis=basis,
    )
    staged.write("training_set", period, assembled.rows)
    return staged.with_seconds(started).to_dict()


def train_challenger(staged: dict[str, Any]) -> dict[str, Any]:
    """Fit, evaluate against baselines and champion on one holdout, and register a version."""
    from evergreen.decisions.gate import Baseline, Evidence, Metrics
    from evergreen.provenance import receipts
    from evergreen.settings import load_settings
    from evergreen.sources import oracle_for
    from evergreen.training.baselines import fit_baselines
    from evergreen.training.evaluate import evaluate
    from evergreen.training.fit import fit_booster
    from evergreen.training.frame import label_split
    from evergreen.training.record import TrainingRecord
    from evergreen.training.tracking import log_training_run

    batch = Staged.from_dict(staged)
    declared, period, settings = batch.load_use_case(), Period.parse(batch.period), load_settings()
    plan = _plan(declared, period.last)
    split = label_split(batch.read("training_set", period), plan, declared)
    seed, threads = declared.training.seed, settings.threads
    fitted = fit_booster(split, declared, threads=threads, seed=seed)
    oracle = oracle_for(declared, as_of(plan.holdout[-1]), declared.label.horizon_days)
    evaluation = evaluate(fitted.booster, split.holdout, declared, threads=threads, oracle=oracle)
    baselines = fit_baselines(split, declared)
    # Before the version is registered: what fails until then can be repeated as if never begun.
    champion, sequence = _champion_on(declared, split.holdout, threads)
    version = log_training_run(
        TrainingRecord(
            day=period.last,
            request_key=f"{batch.period} {batch.facts['reason']}",
            reason=batch.facts["reason"],
            plan=plan,
            split=split,
            fitted=fitted,
            evaluation=evaluation,
            baselines=baselines,
            inputs=batch.inputs,
            left_out=batch.facts["left_out"],
            reference=_reference(split, fitted, threads).to_dict(),
            code_digest=receipts.code_digest(declared),
            lock_digest=receipts.lock_digest(),
            seed=seed,
        ),
        declared,
    )
    _keep_inputs(declared, version.version, batch.inputs)
    evidence = Evidence(
        day=period.last,
        use_case=declared.name,
        version=version.version,
        holdout_as_of=as_of(plan.holdout[-1]),
        rows=evaluation.rows,
        minority_rows=min(evaluation.positives, evaluation.rows - evaluation.positives),
        challenger=Metrics(
            auc=evaluation.auc,
            logloss=evaluation.logloss,
            brier=evaluation.brier,
            latency_ms_per_1k=evaluation.latency_ms_per_1k,
        ),
        baselines={b.name: Baseline(auc=b.auc, logloss=b.logloss) for b in baselines},
        champion=champion,
        ledger_sequence=sequence,
    )
    return {
        "use_case": declared.name,
        "day": batch.period,
        "staged": batch.folder,
        "reason": batch.facts["reason"],
        "version": version.version,
        "oracle_auc": evaluation.oracle_auc,
        "inputs": dict(batch.inputs),
        "evidence": evidence.to_dict(),
    }


def judge_challenger(challenger: dict[str, Any]) -> dict[str, Any]:
    """Let the gate decide, and keep evidence and verdict in `decisions`.

    The training set is removed here, not by the task that reads it: that one may be killed when it
    is done, and could not be repeated without it.
    """
    from evergreen.decisions.gate import Evidence, decide_promotion, record_promotion_decision
    from evergreen.training.tracking import tag_version

    declared = load_use_case(challenger["use_case"])
    evidence = Evidence.from_dict(challenger["evidence"])
    verdict = decide_promotion(evidence, declared.gate)
    batch = Staged(declared.name, challenger["day"], "", inputs=challenger["inputs"])
    publish_chunk(
        batch,
        "judge_challenger",
        "decisions",
        record_promotion_decision(evidence, declared.gate, verdict),
        [evidence.day],
        part={"kind": "gate", "version": evidence.version},
    )
    tag_version(declared, evidence.version, {"decision": verdict.decision})
    summary = "\n".join(
        [
            f"Version {evidence.version}, trained for {evidence.day}: **{verdict.decision}**.",
            *(
                f"- {'passed' if c.passed else 'FAILED'} {c.name}: {c.reason}"
                for c in verdict.checks
            ),
        ]
    )
    logger.info("%s", summary)
    drop_staging(Path(challenger["staged"]))
    return {
        **challenger,
        "decision": verdict.decision,
        "reasons": list(verdict.reasons),
        "verdict": verdict.to_dict(),
        "summary": summary,
    }


def is_promotable(judged: dict[str, Any]) -> bool:
    """Whether the gate said yes."""
    return bool(judged["decision"] == "promote")


def promote_challenger(judged: dict[str, Any]) -> dict[str, Any]:
    """Append the promotion to the ledger; the registry's alias follows."""
    from evergreen.decisions.gate import Evidence, Verdict
    from evergreen.release.ledger import engine
    from evergreen.release.promote import promote
    from evergreen.training.tracking import set_champion

    declared = load_use_case(judged["use_case"])
    evidence = Evidence.from_dict(judged["evidence"])
    try:
        entry = promote(
            engine(),
            declared.name,
            evidence.version,
            actor=f"{declared.name}_train",
            reason=judged["reason"],
            set_alias=lambda version: set_champion(declared, version),
            expected_sequence=evidence.ledger_sequence,
            # One decision: a run that was cleared decides anew.
            request=f"train {evidence.day} version {evidence.version} "
            f"after entry {evidence.ledger_sequence}",
            evidence=judged["evidence"],
            verdict=Verdict.from_dict(judged["verdict"]),
        )
    except LedgerConflictError as error:
        raise LedgerConflictError(
            f"{error} Clear this run of {declared.name}_train from its first task on: it finds "
            f"version {evidence.version} again and holds it against the new champion."
        ) from error
    return {
        "use_case": declared.name,
        "version": entry.version,
        "sequence": entry.sequence,
        "previous_version": entry.previous_version,
    }


def _record_event(use_case: UseCase, day: date, step: str, event: Event, reason: str) -> None:
    from evergreen.decisions.governor import record_event

    publish_chunk(
        Staged(use_case.name, day.isoformat(), ""),
        step,
        "decisions",
        record_event(use_case.name, day, event, reason),
        [day],
        part={"kind": "request", "decision": event},
    )


def _keep_inputs(use_case: UseCase, version: int, inputs: Mapping[str, int | None]) -> None:
    """Tag the snapshots a version was trained on: expiry leaves them, so it can be replayed."""
    from evergreen import lake

    for name, snapshot in inputs.items():
        table, _, day = name.partition("/")
        if snapshot:
            label = f"version-{version}-{day}" if day else f"version-{version}"
            lake.tag(use_case.name, table, snapshot, label)


def _plan(use_case: UseCase, day: date) -> SplitPlan:
    from evergreen.training.split import plan_split

    return plan_split(use_case.training, use_case.label.horizon_days, use_case.first_day, day)


def _reference(split: LabelledSplit, fitted: FittedModel, threads: int) -> Reference:
    """Freeze the features the model was fitted on, and its score on rows it had not seen."""
    import pyarrow as pa

    from evergreen.monitoring.drift import SCORE
    from evergreen.monitoring.reference import build_reference
    from evergreen.training.fit import predict

    names = list(fitted.feature_names)
    inputs = build_reference(_as_table(split.refit, names), names)
    scores = predict(fitted.booster, split.holdout.matrix, threads=threads)
    output = build_reference(pa.table({SCORE: scores}), [SCORE])
    return replace(inputs, columns=inputs.columns + output.columns)


def _as_table(frame: LabelledFrame, names: list[str]) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {name: pa.array(frame.matrix[:, n], from_pandas=True) for n, name in enumerate(names)}
    )


def _champion_on(
    use_case: UseCase, holdout: LabelledFrame, threads: int
) -> tuple[Champion | None, int]:
    """Measure the champion on the challenger's holdout; also its place in the ledger."""
    from evergreen.decisions import gate
    from evergreen.release import ledger
    from evergreen.training.compatibility import find_misfit
    from evergreen.training.evaluate import measure_auc, measure_logloss
    from evergreen.training.fit import predict
    from evergreen.training.frame import prepare
    from evergreen.training.tracking import load_version

    entry = ledger.champion(ledger.engine(), use_case.name)
    if entry is None:
        return None, 0
    model = load_version(use_case, entry.version)
    if misfit := find_misfit(use_case, model.reads):
        return gate.Champion(entry.version, auc=None, unfit=f"it reads {misfit}"), entry.sequence
    matrix = prepare(_as_table(holdout, list(holdout.feature_names)), model.feature_names)
    scores = predict(model.booster, matrix, threads=threads)
    champion = gate.Champion(
        version=entry.version,
        auc=measure_auc(holdout.target, scores),
        logloss=measure_logloss(holdout.target, scores),
    )
    return champion, entry.sequence
