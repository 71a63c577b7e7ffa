"""The promotion gate: a pure function from evidence about a challenger to a verdict with reasons.

A gate over nothing fails: metrics that were not measured, baselines that are missing, a holdout
that is too small and a champion nobody compared with are all reasons to refuse.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

import pyarrow as pa

from evergreen.contract import Gate
from evergreen.decisions.stored import Stored, decision_table

Decision = Literal["promote", "refuse"]

REQUIRED_BASELINES = ("recency", "logistic_regression")
"""What every challenger must beat: recency alone, and logistic regression."""


@dataclass(frozen=True)
class Metrics(Stored):
    """Quality and speed of a model on the holdout; None means it was not measured.

    Parameters
    ----------
    auc, brier
        In [0, 1].
    logloss
        Natural logarithm, at least 0.
    latency_ms_per_1k
        Milliseconds to score 1,000 rows.
    """

    auc: float | None
    logloss: float | None = None
    brier: float | None = None
    latency_ms_per_1k: float | None = None


@dataclass(frozen=True)
class Baseline(Stored):
    """A simple model on the same holdout."""

    auc: float | None
    logloss: float | None = None


@dataclass(frozen=True)
class Champion(Stored):
    """The model in charge, measured now on the challenger's holdout.

    Parameters
    ----------
    unfit
        Why it cannot be measured at all: it reads features that are not computed any more. Such a
        champion can score nobody, so there is nothing to be worse than.
    """

    version: int
    auc: float | None
    logloss: float | None = None
    unfit: str | None = None


@dataclass(frozen=True)
class Evidence(Stored):
    """All the gate may look at.

    Parameters
    ----------
    day
        UTC day the training belongs to.
    version
        Registered version of the challenger.
    holdout_as_of
        Instant (UTC) the holdout's features were computed as of.
    rows, minority_rows
        Rows of the holdout, and those of its rarer class.
    baselines
        By name; `REQUIRED_BASELINES` must be among them.
    ledger_sequence
        Sequence number of the ledger entry that put the champion in charge when the comparison
        was made; 0 when nothing was ever promoted. The promotion is appended right after it, or
        not at all.
    """

    day: date
    use_case: str
    version: int
    holdout_as_of: datetime
    rows: int
    minority_rows: int
    challenger: Metrics
    baselines: dict[str, Baseline] = field(default_factory=dict)
    champion: Champion | None = None
    ledger_sequence: int = 0


@dataclass(frozen=True)
class Check(Stored):
    """One demand and whether it was met; `found` is None when it was not measured."""

    name: str
    passed: bool
    found: float | None
    required: float | None
    reason: str


@dataclass(frozen=True)
class Verdict(Stored):
    """The decision; `reasons` are those of the failed checks, or of all when none failed."""

    decision: Decision
    checks: tuple[Check, ...]
    reasons: tuple[str, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that speak against promotion."""
        return tuple(check for check in self.checks if not check.passed)


def decide_promotion(evidence: Evidence, gate: Gate) -> Verdict:
    """Decide whether the challenger may take charge.

    Parameters
    ----------
    evidence
        What was measured. Not modified.
    gate
        What the use case demands.

    Returns
    -------
    Verdict
        `promote` only if every check passed.

    Notes
    -----
    The verdict is monotone: a challenger with a higher AUC, lower logloss, lower latency or a
    larger holdout, all else equal, is never refused where the other was promoted.
    """
    checks = tuple(check for demand in DEMANDS for check in demand(evidence, gate))
    failed = [check for check in checks if not check.passed]
    return Verdict(
        decision="refuse" if failed or not checks else "promote",
        checks=checks,
        reasons=tuple(check.reason for check in failed or checks),
    )


def record_promotion_decision(evidence: Evidence, gate: Gate, verdict: Verdict) -> pa.Table:
    """Return the decision as one row of the table `decisions`."""
    return decision_table(
        day=evidence.day,
        use_case=evidence.use_case,
        kind="gate",
        decision=verdict.decision,
        trigger=None,
        version=evidence.version,
        reasons=verdict.reasons,
        evidence=evidence,
        demands=gate.model_dump(mode="json"),
        verdict=verdict,
    )


def replay_promotion(stored: str) -> Verdict:
    """Decide again from the column `evidence` of a stored gate decision."""
    record = json.loads(stored)
    return decide_promotion(Evidence.from_dict(record["evidence"]), Gate(**record["demands"]))


def _measured(evidence: Evidence, gate: Gate) -> Iterator[Check]:
    challenger = evidence.challenger
    highest = {"auc": 1.0, "brier": 1.0}
    absent = []
    for name in ("auc", "logloss", "brier", "latency_ms_per_1k"):
        value = getattr(challenger, name)
        if value is None or not 0 <= value <= highest.get(name, value):
            absent.append(f"{name} ({value})")
    yield Check(
        "metrics_measured",
        not absent,
        4.0 - len(absent),
        4.0,
        f"not measured or impossible: {', '.join(absent)}; measure the challenger again"
        if absent
        else "all metrics of the challenger were measured",
    )


def _holdout(evidence: Evidence, gate: Gate) -> Iterator[Check]:
    yield _at_least("holdout_rows", "holdout rows", evidence.rows, gate.min_holdout_rows)
    yield _at_least(
        "holdout_minority",
        "holdout rows of the rarer class",
        evidence.minority_rows,
        gate.min_holdout_minority,
    )


def _absolute(evidence: Evidence, gate: Gate) -> Iterator[Check]:
    challenger = evidence.challenger
    yield _at_least("min_auc", "AUC", challenger.auc, gate.min_auc)
    yield _at_most("max_logloss", "logloss", challenger.logloss, gate.max_logloss)
    yield _at_most(
        "max_latency",
        "latency in ms per 1,000 rows",
        challenger.latency_ms_per_1k,
        gate.max_latency_ms_per_1k,
    )


def _baselines(evidence: Evidence, gate: Gate) -> Iterator[Check]:
    auc = evidence.challenger.auc
    for name in sorted({*REQUIRED_BASELINES, *evidence.baselines}):
        baseline = evidence.baselines.get(name)
        if baseline is None or baseline.auc is None:
            yield Check(
                f"beats_{name}",
                False,
                auc,
                None,
                f"baseline {name} was not measured on the holdout; nothing shows it is beaten",
            )
            continue
        required = baseline.auc + gate.min_baseline_margin
        passed = auc is not None and auc > required
        yield Check(
            f"beats_{name}",
            passed,
            auc,
            required,
            f"AUC {_show(auc)} {'exceeds' if passed else 'does not exceed'} {required:.4f}, "
            f"baseline {name} plus margin {gate.min_baseline_margin:g}",
        )


def _champion(evidence: Evidence, gate: Gate) -> Iterator[Check]:
    name = "not_worse_than_champion"
    auc, champion = evidence.challenger.auc, evidence.champion
    if champion is None:
        # No champion is fine exactly once; later it means that nobody compared.
        first = evidence.ledger_sequence == 0
        yield Check(
            name,
            first,
            auc,
            None,
            "there is no champion yet"
            if first
            else f"the ledger stands at entry {evidence.ledger_sequence}, but its champion was "
            "not measured on this holdout",
        )
        return
    if champion.unfit is not None:
        reason = (
            f"champion {champion.version} cannot be measured on today's features: "
            f"{champion.unfit}. The challenger is held against the other demands alone"
        )
        yield Check(name, True, auc, None, reason)
        return
    if champion.auc is None:
        reason = f"champion {champion.version} has no AUC on this holdout; measure it again"
        yield Check(name, False, auc, None, reason)
        return
    required = champion.auc - gate.max_champion_deficit
    passed = auc is not None and auc >= required
    yield Check(
        name,
        passed,
        auc,
        required,
        f"AUC {_show(auc)} {'reaches' if passed else 'is below'} {required:.4f}, champion "
        f"{champion.version} less allowed deficit {gate.max_champion_deficit:g}",
    )


Demand = Callable[[Evidence, Gate], Iterator[Check]]

DEMANDS: tuple[Demand, ...] = (_measured, _holdout, _absolute, _baselines, _champion)
"""Each yields checks. A statistical comparison with the champion is one more entry here."""


def _at_least(name: str, what: str, found: float | None, required: float) -> Check:
    passed = found is not None and found >= required
    verb = "reach" if passed else "do not reach"
    return Check(name, passed, found, required, f"{what}: {_show(found)} {verb} {required:g}")


def _at_most(name: str, what: str, found: float | None, required: float) -> Check:
    passed = found is not None and found <= required
    verb = "within" if passed else "not within"
    return Check(name, passed, found, required, f"{what}: {_show(found)} {verb} {required:g}")


def _show(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:d}" if isinstance(value, int) else f"{value:.4f}"
