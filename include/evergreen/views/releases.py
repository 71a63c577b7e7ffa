"""Who was put in charge by whom, and what every version had to show for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import pairwise
from typing import Literal

from evergreen.contract import UseCase
from evergreen.decisions.gate import Check, Difference, PromotionEvidence
from evergreen.release import ledger
from evergreen.release.ledger import Action, Entry
from evergreen.release.lifecycle import Lifecycle, lifecycle
from evergreen.views.decided import judged, judged_on, on
from evergreen.views.measured import Measurement, measurements
from evergreen.views.remembered import remembered


@dataclass(frozen=True)
class LedgerEntry:
    """One term: `until` is None for the version in charge; instants are UTC."""

    sequence: int
    action: Action
    version: int
    previous_version: int | None
    actor: str
    reason: str
    recorded_at: datetime
    until: datetime | None
    hash: str


@dataclass(frozen=True)
class RolloutStep:
    """From `recorded_at` (UTC) on, `share` of the entities get the challenger's scores.

    0 is in shadow; None ends the rollout, and the champion stays in charge.
    """

    sequence: int
    champion: int
    challenger: int
    share: float | None
    actor: str
    reason: str
    recorded_at: datetime


@dataclass(frozen=True)
class Against:
    """A metric of the version minus that of another on the same rows, with bounds at 95 %."""

    other: str
    metric: str
    estimate: float | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True)
class Version:
    """A version that the gate has judged, with the evidence it was judged on."""

    version: int
    state: Lifecycle
    trained_on: date
    asked_by: str
    decision: str
    reasons: list[str]
    checks: list[Check]
    metrics: list[Measurement]
    baselines: dict[str, list[Measurement]]
    against: list[Against]
    effect: str
    rows: dict[str, int]


@dataclass(frozen=True)
class Releases:
    """The ledger and the versions, newest first; `damage` is what does not verify.

    `entries` are those that changed who is in charge, `steps` those of rollouts.
    """

    use_case: str
    mode: Literal["auto", "approve", "shadow"]
    rolls_out: bool
    main_metric: str
    entries: list[LedgerEntry]
    steps: list[RolloutStep]
    versions: list[Version]
    damage: list[str]
    release_dag: str


def releases(use_case: UseCase) -> Releases:
    """Return all releases of a use case, and all versions that the gate has judged."""
    # Whoever changes an entry changes nothing else that would tell of it.
    damage = [*ledger.verify(ledger.engine(), use_case.name)]
    return replace(_releases(use_case), damage=damage)


@remembered
def _releases(use_case: UseCase) -> Releases:
    whole = ledger.entries(ledger.engine(), use_case.name)
    entries = [entry for entry in whole if entry.is_release]
    return Releases(
        use_case.name,
        use_case.gate.mode,
        use_case.rollout is not None,
        use_case.target.main_metric,
        _terms(entries),
        _steps(whole),
        [
            _version(use_case, number, entries)
            for number in sorted(judged_on(use_case), reverse=True)
        ],
        [],
        f"{use_case.name}_release",
    )


def _terms(entries: Sequence[Entry]) -> list[LedgerEntry]:
    ends = [after.recorded_at for _, after in pairwise(entries)]
    found = [
        LedgerEntry(
            entry.sequence,
            entry.action,
            entry.version,
            entry.previous_version,
            entry.actor,
            entry.reason,
            entry.recorded_at,
            until,
            entry.hash,
        )
        for entry, until in zip(entries, [*ends, None], strict=False)
    ]
    return found[::-1]


def _steps(entries: Sequence[Entry]) -> list[RolloutStep]:
    found = []
    for before, entry in pairwise(entries):
        challenger = entry.challenger or before.challenger
        if not entry.is_release and challenger is not None:
            told = (entry.actor, entry.reason, entry.recorded_at)
            step = RolloutStep(entry.sequence, entry.version, challenger, entry.share, *told)
            found.append(step)
    return found[::-1]


def _version(use_case: UseCase, number: int, entries: Sequence[Entry]) -> Version:
    found = judged(use_case, number)
    assert found is not None
    evidence, verdict = found
    told = on(use_case, evidence.day)
    started = [
        row["reasons"] for row in told if (row["kind"], row["decision"]) == ("request", "started")
    ]
    effects = [
        f"{row['decision']}: {'; '.join(row['reasons'])}"
        for row in told
        if row["kind"] == "effect" and row["version"] == number
    ]
    return Version(
        number,
        lifecycle(number, entries, verdict.decision),
        evidence.day,
        "; ".join(started[-1]) if started else "",
        verdict.decision,
        [*verdict.reasons],
        [*verdict.checks],
        measurements(use_case, evidence.challenger, evidence.intervals),
        {name: measurements(use_case, of) for name, of in evidence.baselines.items()},
        _against(use_case, evidence),
        "; ".join(effects),
        dict(evidence.counts),
    )


def _against(use_case: UseCase, evidence: PromotionEvidence) -> list[Against]:
    main = use_case.target.main_metric
    found: list[tuple[str, str, Difference]] = []
    if champion := evidence.champion:
        name = f"champion {champion.version}"
        found += [(name, metric, of) for metric, of in champion.differences.items()]
        found += [(f"{name}, {part}", main, of) for part, of in champion.slices.items()]
    found += [(f"baseline {name}", main, of) for name, of in evidence.over_baselines.items()]
    return [Against(of, metric, d.estimate, d.lower, d.upper) for of, metric, d in found]
