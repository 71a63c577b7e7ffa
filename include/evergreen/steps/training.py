"""Training: a request to a challenger, a verdict, and perhaps a new champion."""

from __future__ import annotations

import logging
import time
from typing import Any

from evergreen.contract import Period, load_use_case, parse_day
from evergreen.errors import ConfigError, LedgerConflictError, NotReadyError
from evergreen.provenance.staging import Staged, drop_staging, new_staging

logger = logging.getLogger(__name__)

AS_KNOWN, AS_CORRECTED = "as_known", "as_corrected"


def accept_request(
    use_case: str, day: str, reason: str, corrections: str = AS_KNOWN
) -> dict[str, Any]:
    """State what is trained, for which day, and why, and record that it has started.

    `corrections` says how days are read that were corrected after the day was processed:
    `as_known` or `as_corrected`.
    """
    from evergreen.training import requests

    wanted = parse_day(day, use_case)
    if corrections not in (AS_KNOWN, AS_CORRECTED):
        raise ConfigError(
            f"corrections is {corrections!r}; expected {AS_KNOWN!r} or {AS_CORRECTED!r}."
        )
    requests.tell(use_case, wanted, "started", reason)
    logger.info("training %s for %s: %s", use_case, day, reason)
    return {"use_case": use_case, "day": day, "reason": reason, "corrections": corrections}


def fail_request(use_case: str, day: str, run: str) -> None:
    """Record that a training ended without a verdict, so that nobody waits for it."""
    from evergreen.training import requests

    reason = f"{use_case}_train {run} failed before the gate; its failed task's log says why"
    requests.tell(use_case, parse_day(day), "failed", reason)


def assemble_training_set(request: dict[str, Any], run: str | None = None) -> dict[str, Any]:
    """Join the labels of the split's days with point-in-time features, through Feast."""
    from evergreen.provenance import receipts
    from evergreen.training.assemble import assemble, choose_inputs
    from evergreen.training.external import place_of
    from evergreen.training.split import plan_training

    started = time.monotonic()
    declared, period = load_use_case(request["use_case"]), Period.parse(request["day"])
    plan = plan_training(declared, period.last)
    basis = receipts.newest_sequence()
    corrected = request["corrections"] == AS_CORRECTED
    inputs = choose_inputs(declared, period.last, plan.days, corrected=corrected)
    assembled = assemble(declared, plan, inputs)
    staged = Staged(
        declared.name,
        period.label,
        new_staging(declared.name, "training", period.label, run),
        chunks=(period.label,),
        inputs=inputs.to_dict(),
        facts={
            "reason": request["reason"],
            "rows": assembled.rows.num_rows,
            "left_out": {str(day): rows for day, rows in assembled.left_out.items()},
            **place_of(assembled.rows.num_rows, declared),
        },
        basis=basis,
    )
    staged.write("training_set", period, assembled.rows)
    return staged.with_seconds(started).to_dict()


def choose_recipe(staged: dict[str, Any]) -> dict[str, Any]:
    """Choose kind of model, settings and rounds on the folds before the holdout."""
    from evergreen.settings import load_settings
    from evergreen.training.external import open_rows
    from evergreen.training.fit import Fitter
    from evergreen.training.split import plan_training
    from evergreen.training.tune import choose_recipe as choose

    started = time.monotonic()
    batch = Staged.from_dict(staged)
    declared, period = batch.load_use_case(), Period.parse(batch.period)
    plan = plan_training(declared, period.last)
    settings = load_settings()
    fitter = Fitter(declared, settings.threads, declared.training.seed)
    # A killed try goes on with it on the same machine, and finds the same elsewhere.
    journal = settings.scratch / f"trials-{batch.folder.rsplit('/', 1)[-1]}.log"
    settings.scratch.mkdir(parents=True, exist_ok=True)
    with open_rows(batch, plan) as rows:
        choice = choose(rows, plan, fitter, journal=journal)
    journal.unlink(missing_ok=True)
    logger.info("%s", choice.reason)
    return batch.with_seconds(started, facts={**batch.facts, "choice": choice.to_dict()}).to_dict()


def train_challenger(staged: dict[str, Any]) -> dict[str, Any]:
    """Fit what was chosen, evaluate it on the holdout, and register a version."""
    from evergreen import lake
    from evergreen.settings import load_settings
    from evergreen.training.assemble import TrainingInputs
    from evergreen.training.challenger import train_challenger as train
    from evergreen.training.external import open_rows
    from evergreen.training.split import plan_training
    from evergreen.training.tune import Choice

    batch = Staged.from_dict(staged)
    declared, period = batch.load_use_case(), Period.parse(batch.period)
    inputs = TrainingInputs.from_dict(batch.inputs)
    newest = lake.read_day(
        declared.owner_of("features"), "features", period.last, inputs.snapshots["features"]
    )
    with open_rows(batch, plan_training(declared, period.last)) as rows:
        evidence = train(
            declared,
            period.last,
            rows,
            inputs,
            Choice.from_dict(batch.facts["choice"]),
            newest,
            reason=batch.facts["reason"],
            left_out=batch.facts["left_out"],
            threads=load_settings().threads,
        )
    return {
        "use_case": batch.use_case,
        "day": batch.period,
        "staged": batch.folder,
        "reason": batch.facts["reason"],
        "version": evidence.version,
        "inputs": dict(batch.inputs),
        "evidence": evidence.to_dict(),
    }


def judge_challenger(challenger: dict[str, Any]) -> dict[str, Any]:
    """Let the gate decide, keep evidence and verdict in `decisions`, and complete the card.

    The training set is removed here, not by the task that reads it: that one may be killed when it
    is done, and could not be repeated without it.
    """
    from evergreen.decisions.gate import PromotionEvidence
    from evergreen.training.verdict import judge

    declared = load_use_case(challenger["use_case"])
    evidence = PromotionEvidence.from_dict(challenger["evidence"])
    verdict, summary = judge(declared, evidence, challenger["inputs"])
    logger.info("%s", summary)
    drop_staging(challenger["staged"])
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


def promote_challenger(judged: dict[str, Any], approved_by: str | None = None) -> dict[str, Any]:
    """Append the promotion to the ledger, in the approver's name; the registry's alias follows.

    `approved_by` is empty where nobody has answered, which only a gate that asks nobody allows.
    """
    from evergreen.decisions.gate import PromotionEvidence, PromotionVerdict
    from evergreen.training.verdict import follow

    declared = load_use_case(judged["use_case"])
    evidence = PromotionEvidence.from_dict(judged["evidence"])
    if approved_by == "" and declared.gate.mode == "approve":
        raise NotReadyError(
            f"Nobody has approved version {evidence.version} of {declared.name}: the question was "
            "passed over by hand. Clear the task approve_promotion, and let somebody who may "
            "release answer it."
        )
    verdict = PromotionVerdict.from_dict(judged["verdict"])
    actor, reason = approved_by or f"{declared.name}_train", judged["reason"]
    try:
        entry = follow(declared, evidence, verdict, "train", actor=actor, reason=reason)
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
