"""What a promotion was worth, once there are labels of what the new version has scored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

import pyarrow as pa

from evergreen.decisions.gate import Difference
from evergreen.decisions.stored import Stored, decision_table

Effect = Literal["better", "unclear", "worse"]


@dataclass(frozen=True)
class EffectEvidence(Stored):
    """Both versions on the first labelled day that the new one has scored.

    Parameters
    ----------
    trained_on
        The day the new version's training belongs to; its request and the gate's verdict are there.
    sequence
        Of the promotion in the release ledger.
    run_id
        The MLflow run that made the version.
    day, rows
        The scored day, and its labelled rows.
    metric, realised, former
        The main metric, of the scores that were published and of those the former version would
        have given to the same entities.
    difference
        Realised less former.
    promised
        What the new version reached on its holdout.
    """

    use_case: str
    version: int
    former_version: int
    trained_on: date
    sequence: int
    run_id: str
    day: date
    rows: int
    metric: str
    realised: float | None
    former: float | None
    difference: Difference
    promised: float | None


@dataclass(frozen=True)
class EffectVerdict(Stored):
    """Whether the new version is surely better or worse than the former."""

    decision: Effect
    reasons: tuple[str, ...]


def judge_effect(evidence: EffectEvidence) -> EffectVerdict:
    """Decide whether a promotion has helped: by the whole interval of the difference."""
    found = evidence.difference
    if found.estimate is None or found.lower is None or found.upper is None:
        why = f"{evidence.metric} of {evidence.rows} labelled rows of {evidence.day} does not exist"
        return EffectVerdict("unclear", (why,))
    decision: Effect = "better" if found.lower > 0 else "worse" if found.upper < 0 else "unclear"
    reasons = [
        f"on {evidence.day} version {evidence.version} realised {evidence.metric} "
        f"{evidence.realised:.4f} over {evidence.rows} rows, where version "
        f"{evidence.former_version} would have reached {evidence.former:.4f}: "
        f"{found.estimate:+.4f} ({found.lower:+.4f} to {found.upper:+.4f})"
    ]
    if evidence.promised is not None:
        reasons.append(f"its holdout had promised {evidence.promised:.4f}")
    return EffectVerdict(decision, tuple(reasons))


def record_effect(evidence: EffectEvidence, verdict: EffectVerdict) -> pa.Table:
    """Return the effect as one row of `decisions`, of the day the version was trained on."""
    return decision_table(
        day=evidence.trained_on,
        use_case=evidence.use_case,
        kind="effect",
        decision=verdict.decision,
        trigger=None,
        version=evidence.version,
        reasons=verdict.reasons,
        evidence=evidence,
        demands={},
        verdict=verdict,
    )
