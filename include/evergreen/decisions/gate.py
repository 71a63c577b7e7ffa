"""The promotion gate: a pure function from evidence about a challenger to a verdict with reasons.

A gate over nothing fails: metrics that were not measured, baselines that are missing, a holdout
that is too small and a champion nobody compared with are all reasons to refuse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal, Self

import pyarrow as pa

from evergreen.contract import UseCase
from evergreen.decisions.stored import Stored, decision_table

Decision = Literal["promote", "refuse"]

Metrics = dict[str, float | None]
"""Measurements of a model on the holdout, by metric; None or absent: not measured."""


@dataclass(frozen=True)
class MeasuredChampion(Stored):
    """The model in charge, measured now on the challenger's holdout.

    Parameters
    ----------
    unfit
        Why it cannot be measured at all: it reads features that are not computed any more. Such a
        champion can score nobody, so there is nothing to be worse than.
    """

    version: int
    metrics: Metrics = field(default_factory=dict)
    unfit: str | None = None


@dataclass(frozen=True)
class PromotionEvidence(Stored):
    """All the gate may look at.

    Parameters
    ----------
    day
        Day the training belongs to.
    version
        Registered version of the challenger.
    holdout_as_of
        Instant (UTC) the holdout's features were computed as of.
    counts
        Rows of the holdout, and what else the target counts of it.
    challenger
        Metrics of the target.
    latency_ms_per_1k
        Milliseconds the challenger takes to score 1,000 rows.
    baselines
        Metrics by name of the baseline.
    ledger_sequence
        Sequence number of the ledger entry that put the champion in charge when the comparison
        was made; 0 when nothing was ever promoted. The promotion is appended right after it, or
        not at all.
    """

    day: date
    use_case: str
    version: int
    holdout_as_of: datetime
    counts: dict[str, int]
    challenger: Metrics
    latency_ms_per_1k: float | None = None
    baselines: dict[str, Metrics] = field(default_factory=dict)
    champion: MeasuredChampion | None = None
    ledger_sequence: int = 0


@dataclass(frozen=True)
class PromotionDemands(Stored):
    """What the use case and its target demand of a challenger.

    Parameters
    ----------
    main_metric
        By which models are compared; higher is better.
    possible
        Every metric that must be measured, with the least and greatest it can be; None: no bound.
    limits
        Bounds by name: `min_<metric>`, `max_<metric>`.
    counts
        Of what is counted of the holdout, the least numbers.
    baselines
        Names of those that must have been measured, and beaten.
    """

    main_metric: str
    possible: dict[str, tuple[float | None, float | None]]
    limits: dict[str, float]
    counts: dict[str, int]
    baselines: tuple[str, ...]
    max_latency_ms_per_1k: float
    min_baseline_margin: float
    max_champion_deficit: float

    @classmethod
    def of(cls, use_case: UseCase) -> Self:
        """Gather what is declared."""
        target, gate = use_case.target, use_case.gate
        return cls(
            main_metric=target.main_metric,
            possible={
                name: (_finite(low), _finite(high)) for name, (low, high) in target.metrics.items()
            },
            limits=use_case.limits,
            counts={**target.enough, **gate.counts},
            baselines=(*use_case.training.baselines, *target.baselines()),
            max_latency_ms_per_1k=gate.max_latency_ms_per_1k,
            min_baseline_margin=gate.min_baseline_margin,
            max_champion_deficit=gate.max_champion_deficit,
        )


@dataclass(frozen=True)
class Check(Stored):
    """One demand and whether it was met; `found` is None when it was not measured."""

    name: str
    passed: bool
    found: float | None
    required: float | None
    reason: str


@dataclass(frozen=True)
class PromotionVerdict(Stored):
    """The decision; `reasons` are those of the failed checks, or of all when none failed."""

    decision: Decision
    checks: tuple[Check, ...]
    reasons: tuple[str, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that speak against promotion."""
        return tuple(check for check in self.checks if not check.passed)


def decide_promotion(evidence: PromotionEvidence, demands: PromotionDemands) -> PromotionVerdict:
    """Decide whether the challenger may take charge.

    Parameters
    ----------
    evidence
        What was measured. Not modified.
    demands
        What the use case demands.

    Returns
    -------
    PromotionVerdict
        `promote` only if every check passed.

    Notes
    -----
    The verdict is monotone: a challenger with a better main metric, or further within a limit, with
    a lower latency or on a larger holdout, all else equal, is never refused where the other was
    promoted.
    """
    checks = tuple(check for demand in DEMANDS for check in demand(evidence, demands))
    failed = [check for check in checks if not check.passed]
    return PromotionVerdict(
        decision="refuse" if failed or not checks else "promote",
        checks=checks,
        reasons=tuple(check.reason for check in failed or checks),
    )


def record_promotion_decision(
    evidence: PromotionEvidence, demands: PromotionDemands, verdict: PromotionVerdict
) -> pa.Table:
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
        demands=demands.to_dict(),
        verdict=verdict,
    )


def render_promotion(evidence: PromotionEvidence, verdict: PromotionVerdict) -> str:
    """Return the decision as a short Markdown text."""
    lines = [f"Version {evidence.version}, trained for {evidence.day}: **{verdict.decision}**."]
    for check in verdict.checks:
        lines.append(f"- {'passed' if check.passed else 'FAILED'} {check.name}: {check.reason}")
    return "\n".join(lines)


def replay_promotion(stored: str) -> PromotionVerdict:
    """Decide again from the column `evidence` of a stored gate decision."""
    record = json.loads(stored)
    return decide_promotion(
        PromotionEvidence.from_dict(record["evidence"]),
        PromotionDemands.from_dict(record["demands"]),
    )


def _measured(evidence: PromotionEvidence, demands: PromotionDemands) -> Iterator[Check]:
    values = {name: evidence.challenger.get(name) for name in sorted(demands.possible)}
    values["latency_ms_per_1k"] = evidence.latency_ms_per_1k
    bounds = {**demands.possible, "latency_ms_per_1k": (0.0, None)}
    absent = [
        f"{name} ({value})"
        for name, value in values.items()
        if not _is_possible(value, *bounds[name])
    ]
    yield Check(
        "metrics_measured",
        not absent,
        float(len(values) - len(absent)),
        float(len(values)),
        f"not measured or impossible: {', '.join(absent)}; measure the challenger again"
        if absent
        else "all metrics of the challenger were measured",
    )


def _holdout(evidence: PromotionEvidence, demands: PromotionDemands) -> Iterator[Check]:
    for what, least in sorted(demands.counts.items()):
        found = evidence.counts.get(what)
        yield _at_least(f"holdout_{what}", f"{what.replace('_', ' ')} of the holdout", found, least)


def _absolute(evidence: PromotionEvidence, demands: PromotionDemands) -> Iterator[Check]:
    for limit, bound in sorted(demands.limits.items()):
        side, _, metric = limit.partition("_")
        compare = _at_least if side == "min" else _at_most
        yield compare(limit, metric, evidence.challenger.get(metric), bound)
    yield _at_most(
        "max_latency",
        "latency in ms per 1,000 rows",
        evidence.latency_ms_per_1k,
        demands.max_latency_ms_per_1k,
    )


def _baselines(evidence: PromotionEvidence, demands: PromotionDemands) -> Iterator[Check]:
    metric = demands.main_metric
    found = evidence.challenger.get(metric)
    for name in sorted({*demands.baselines, *evidence.baselines}):
        reached = evidence.baselines.get(name, {}).get(metric)
        if reached is None:
            reason = f"baseline {name} was not measured on the holdout; nothing shows it is beaten"
            yield Check(f"beats_{name}", False, found, None, reason)
            continue
        required = reached + demands.min_baseline_margin
        passed = found is not None and found > required
        yield Check(
            f"beats_{name}",
            passed,
            found,
            required,
            f"{metric} {_show(found)} {'exceeds' if passed else 'does not exceed'} {required:.4f}, "
            f"baseline {name} plus margin {demands.min_baseline_margin:g}",
        )


def _champion(evidence: PromotionEvidence, demands: PromotionDemands) -> Iterator[Check]:
    name, metric, champion = "not_worse_than_champion", demands.main_metric, evidence.champion
    found = evidence.challenger.get(metric)
    if champion is None:
        # No champion is fine exactly once; later it means that nobody compared.
        first = evidence.ledger_sequence == 0
        yield Check(
            name,
            first,
            found,
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
        yield Check(name, True, found, None, reason)
        return
    reached = champion.metrics.get(metric)
    if reached is None:
        reason = f"champion {champion.version} has no {metric} on this holdout; measure it again"
        yield Check(name, False, found, None, reason)
        return
    required = reached - demands.max_champion_deficit
    passed = found is not None and found >= required
    yield Check(
        name,
        passed,
        found,
        required,
        f"{metric} {_show(found)} {'reaches' if passed else 'is below'} {required:.4f}, champion "
        f"{champion.version} less allowed deficit {demands.max_champion_deficit:g}",
    )


Demand = Callable[[PromotionEvidence, PromotionDemands], Iterator[Check]]

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


def _is_possible(value: float | None, low: float | None, high: float | None) -> bool:
    return value is not None and (low is None or low <= value) and (high is None or value <= high)


def _show(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:d}" if isinstance(value, int) else f"{value:.4f}"


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None
