"""What the gate decides of a challenger, kept where decisions are, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evergreen.contract import UseCase
from evergreen.decisions.gate import (
    PromotionDemands,
    PromotionEvidence,
    PromotionVerdict,
    decide_promotion,
    record_promotion_decision,
    render_promotion,
)
from evergreen.provenance import commands
from evergreen.provenance.staging import Staged, publish_chunk
from evergreen.release import ledger
from evergreen.release.promote import promote
from evergreen.release.rollout import begin
from evergreen.training.card import Decision, render_essence
from evergreen.training.tracking import complete_card, set_champion, tag_version


def judge(
    use_case: UseCase, evidence: PromotionEvidence, inputs: Mapping[str, Any]
) -> tuple[PromotionVerdict, str]:
    """Let the gate decide, keep evidence and verdict in `decisions`, and complete the card.

    Parameters
    ----------
    inputs
        What the evidence was made from, for the receipt.

    Returns
    -------
    tuple
        The verdict, and all of it for people.
    """
    demands = PromotionDemands.of(use_case)
    verdict = decide_promotion(evidence, demands)
    publish_chunk(
        Staged(use_case.name, evidence.day.isoformat(), "", inputs=inputs),
        "judge_challenger",
        "decisions",
        record_promotion_decision(evidence, demands, verdict),
        [evidence.day],
        part={"kind": "gate", "version": evidence.version},
    )
    tag_version(use_case, evidence.version, {"decision": verdict.decision})
    card = complete_card(use_case, Decision(use_case.gate.mode, evidence, verdict))
    summary = render_promotion(evidence, verdict)
    if card:
        summary += f"\n\n{render_essence(card)}"
    if use_case.gate.mode == "shadow" and verdict.decision == "promote":
        by_hand = commands.put_in_charge(use_case.name, "promote", evidence.version, "the reason")
        summary += f"\n\ngate.mode is shadow, so nothing follows. To promote it: {by_hand}"
    return verdict, summary


def follow(
    use_case: UseCase,
    evidence: PromotionEvidence,
    verdict: PromotionVerdict,
    asked_by: str,
    *,
    actor: str,
    reason: str,
) -> ledger.Entry:
    """Append the promotion to the ledger; the registry's alias follows.

    Where the use case declares a rollout and a champion is, one begins instead.

    Parameters
    ----------
    asked_by
        What kind of run asks, for the request's identity.

    Raises
    ------
    LedgerConflictError
        The champion changed since the evidence was gathered.
    """
    # One decision: a run that was cleared decides anew.
    sequence = evidence.ledger_sequence
    request = f"{asked_by} {evidence.day} version {evidence.version} after entry {sequence}"
    if use_case.rollout and sequence and verdict.decision == "promote":
        return begin(
            ledger.engine(),
            use_case,
            evidence.version,
            actor=actor,
            reason=reason,
            expected_sequence=sequence,
            request=request,
            evidence={"evidence": evidence.to_dict(), "verdict": verdict.to_dict()},
        )
    return promote(
        ledger.engine(),
        use_case.name,
        evidence.version,
        actor=actor,
        reason=reason,
        set_alias=lambda version: set_champion(use_case, version),
        expected_sequence=sequence,
        request=request,
        evidence=evidence.to_dict(),
        verdict=verdict,
    )
