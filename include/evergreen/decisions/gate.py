"""The promotion gate: a pure function from evidence about a challenger to a verdict with reasons.

A gate over nothing fails: metrics that were not measured, baselines that are missing, a holdout
that is too small and a champion nobody compared with are all reasons to refuse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from statistics import NormalDist
from typing import Any, Literal, Self

import pyarrow as pa

from evergreen.contract import UseCase
from evergreen.decisions.stored import Stored, decision_table
from evergreen.statistics.multiple import holm

Decision = Literal["promote", "refuse"]

Comparison = Literal["first", "better", "equivalent", "worse", "unclear", "unfit"]
"""How a challenger stands beside the champion.

`first`: there is none; `unfit`: it cannot score anybody any more. By the interval of the difference
in the main metric, `better` lies above zero, `equivalent` nowhere below the allowed deficit,
`worse` below zero; `unclear` says that the holdout cannot tell.
"""

Metrics = dict[str, float | None]
"""Measurements of a model on the holdout, by metric; None or absent: not measured."""


@dataclass(frozen=True)
class Difference(Stored):
    """A metric of one model minus that of another on the same rows.

    Parameters
    ----------
    error
        Standard error of the estimate.
    """

    estimate: float | None
    lower: float | None
    upper: float | None
    error: float | None = None


@dataclass(frozen=True)
class Agreement(Stored):
    """How close the scores of two models are, on rows whose labels nobody knows yet.

    Parameters
    ----------
    correlation
        Spearman's, of the scores.
    shift
        Difference of the means, in standard deviations of the first model's scores.
    """

    correlation: float | None
    shift: float | None


@dataclass(frozen=True)
class MeasuredChampion(Stored):
    """The model in charge, measured now on the challenger's holdout.

    Parameters
    ----------
    differences
        The challenger's metrics minus the champion's.
    slices
        Of the main metric, by slice that has enough rows.
    age_days
        Days since the day it was trained for.
    unfit
        Why it cannot be measured at all: it reads features that are not computed any more. Such a
        champion can score nobody, so there is nothing to be worse than.
    """

    version: int
    metrics: Metrics = field(default_factory=dict)
    differences: dict[str, Difference] = field(default_factory=dict)
    slices: dict[str, Difference] = field(default_factory=dict)
    age_days: int | None = None
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
    challenger, intervals
        Metrics of the target, and their bounds.
    latency_ms_per_1k
        Milliseconds of one core the challenger takes to score 1,000 rows.
    baselines
        Metrics by name of the baseline.
    over_baselines
        The challenger's main metric minus that of each baseline.
    champion
        None when there is none.
    ledger_sequence
        Sequence number of the ledger entry that put the champion in charge when the comparison
        was made; 0 when nothing was ever promoted. The promotion is appended right after it, or
        not at all.
    promoted_on_holdout
        The version that this very holdout has promoted before, if any.
    refit
        How close the model that serves is to the one that was measured.
    origin
        Where a version came from that was not trained here (environment, version, ledger's hash).
    """

    day: date
    use_case: str
    version: int
    holdout_as_of: datetime
    counts: dict[str, int]
    challenger: Metrics
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    latency_ms_per_1k: float | None = None
    baselines: dict[str, Metrics] = field(default_factory=dict)
    over_baselines: dict[str, Difference] = field(default_factory=dict)
    champion: MeasuredChampion | None = None
    ledger_sequence: int = 0
    promoted_on_holdout: int | None = None
    refit: Agreement | None = None
    origin: dict[str, str] = field(default_factory=dict)


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
        Names of those that must be surely beaten, by `min_baseline_margin`.
    max_champion_deficit
        What an equivalent challenger may be worse by.
    promote
        Which comparisons with the champion promote.
    max_age_days
        Age of the champion from which on an equivalent challenger replaces it; None: never.
    max_slice_deficit
        No slice may be surely worse by more, all slices together wrong in 5 % of cases.
    min_refit_correlation, max_refit_shift
        How close the model that serves must be to the one that was measured.
    """

    main_metric: str
    possible: dict[str, tuple[float | None, float | None]]
    limits: dict[str, float]
    counts: dict[str, int]
    baselines: tuple[str, ...]
    max_latency_ms_per_1k: float
    min_baseline_margin: float
    max_champion_deficit: float
    promote: tuple[str, ...]
    max_age_days: int | None
    max_slice_deficit: float
    min_refit_correlation: float
    max_refit_shift: float

    @classmethod
    def of(cls, use_case: UseCase) -> Self:
        """Gather what is declared."""
        target, gate = use_case.target, use_case.gate
        return cls(
            main_metric=target.main_metric,
            possible={
                name: (_finite(low), _finite(high))
                for name, (low, high) in target.all_metrics.items()
            },
            limits=use_case.limits,
            counts={**target.enough, **gate.counts},
            baselines=("naive", *use_case.training.baselines),
            max_latency_ms_per_1k=gate.max_latency_ms_per_1k,
            min_baseline_margin=gate.min_baseline_margin,
            max_champion_deficit=gate.max_champion_deficit,
            promote=gate.promote,
            max_age_days=use_case.monitoring.max_model_age_days,
            max_slice_deficit=gate.max_slice_deficit,
            min_refit_correlation=gate.min_refit_correlation,
            max_refit_shift=gate.max_refit_shift,
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
    comparison: Comparison = "first"

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
    The verdict is monotone: a challenger with higher bounds of its differences, or further within a
    limit, with a lower latency or on a larger holdout, all else equal, is never refused where the
    other was promoted.
    """
    checks = tuple(check for demand in DEMANDS for check in demand(evidence, demands))
    failed = [check for check in checks if not check.passed]
    return PromotionVerdict(
        decision="refuse" if failed or not checks else "promote",
        checks=checks,
        reasons=tuple(check.reason for check in failed or checks),
        comparison=compare_with_champion(evidence, demands),
    )


def compare_with_champion(evidence: PromotionEvidence, demands: PromotionDemands) -> Comparison:
    """Say how the challenger stands beside the champion; see `Comparison`."""
    champion = evidence.champion
    if champion is None:
        # No champion is fine exactly once; later it means that nobody compared.
        return "first" if evidence.ledger_sequence == 0 else "unclear"
    if champion.unfit is not None:
        return "unfit"
    difference = champion.differences.get(demands.main_metric)
    if difference is None or difference.lower is None or difference.upper is None:
        return "unclear"
    if difference.lower > 0:
        return "better"
    if difference.lower >= -demands.max_champion_deficit:
        return "equivalent"
    return "worse" if difference.upper < 0 else "unclear"


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


def read_promotion(row: Mapping[str, Any]) -> tuple[PromotionEvidence, PromotionVerdict]:
    """Return what the gate saw and decided, from a row of `decisions` of its kind."""
    return (
        PromotionEvidence.from_dict(json.loads(row["evidence"])["evidence"]),
        PromotionVerdict.from_dict(json.loads(row["verdict"])),
    )


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
    metric, margin = demands.main_metric, demands.min_baseline_margin
    for name in demands.baselines:
        difference = evidence.over_baselines.get(name, _NOT_MEASURED)
        lower = difference.lower
        passed = lower is not None and lower > margin
        if lower is None:
            reason = f"baseline {name} was not measured on the holdout; nothing shows it is beaten"
        else:
            reason = (
                f"{metric} is {_interval(difference)} above baseline {name}, "
                f"{'surely' if passed else 'not surely'} more than {margin:g}"
            )
        yield Check(f"beats_{name}", passed, lower, margin, reason)
    for name in sorted({*evidence.over_baselines} - {*demands.baselines}):
        difference = evidence.over_baselines[name]
        passed = difference.upper is not None and difference.upper >= 0
        reason = (
            f"{metric} is {_interval(difference)} above {name}, "
            f"{'not surely' if passed else 'surely'} below it"
        )
        yield Check(f"not_below_{name}", passed, difference.estimate, 0.0, reason)


def _champion(evidence: PromotionEvidence, demands: PromotionDemands) -> Iterator[Check]:
    champion, comparison = evidence.champion, compare_with_champion(evidence, demands)
    difference = champion.differences.get(demands.main_metric) if champion else None
    found = difference.estimate if difference else None
    if champion is None:
        yield Check(
            "champion",
            comparison == "first",
            found,
            None,
            "there is no champion yet"
            if comparison == "first"
            else f"the ledger stands at entry {evidence.ledger_sequence}, but its champion was "
            "not measured on this holdout",
        )
        return
    wanted = set(demands.promote) | {"unfit"}
    too_old = demands.max_age_days is not None and (champion.age_days or 0) > demands.max_age_days
    if too_old:
        wanted.add("equivalent")
    reason = f"{comparison} beside champion {champion.version}"
    if champion.unfit is not None:
        reason += (
            f", which cannot be measured on today's features: {champion.unfit}. The challenger is "
            "held against the other demands alone"
        )
    elif difference is None:
        reason += f", whose {demands.main_metric} was not measured; measure it again"
    else:
        reason += f": {demands.main_metric} differs by {_interval(difference)}"
        if comparison == "equivalent":
            reason += f", at most {demands.max_champion_deficit:g} worse"
        if comparison == "equivalent" and too_old:
            reason += f"; the champion is {champion.age_days} days old, more than allowed"
    if comparison not in wanted:
        reason += f"; promoted is what is {' or '.join(sorted(wanted - {'unfit'}))}"
    yield Check("champion", comparison in wanted, found, 0.0, reason)


def _slices(evidence: PromotionEvidence, demands: PromotionDemands) -> Iterator[Check]:
    slices = evidence.champion.slices if evidence.champion else {}
    allowed = demands.max_slice_deficit
    chances = {name: _chance_worse(slices[name], allowed) for name in sorted(slices)}
    adjusted = holm(chances)
    for name, chance in adjusted.items():
        passed = chance > _SIGNIFICANT
        yield Check(
            f"slice {name}",
            passed,
            slices[name].estimate,
            -allowed,
            f"{demands.main_metric} of {name} differs by {_interval(slices[name])}, "
            f"{'not surely' if passed else 'surely'} worse by more than {allowed:g} (p "
            f"{chance:.3f} among {len(slices)} slices)",
        )


def _chance_worse(difference: Difference, allowed: float) -> float:
    """p-value of the hypothesis that the deficit is at most what is allowed."""
    if difference.estimate is None or not difference.error:
        return 1.0
    return NormalDist().cdf((difference.estimate + allowed) / difference.error)


def _fresh(evidence: PromotionEvidence, demands: PromotionDemands) -> Iterator[Check]:
    other = evidence.promoted_on_holdout
    if evidence.champion is not None and evidence.champion.unfit is not None:
        # Nothing is compared, so nothing is looked at twice.
        other = None
    yield Check(
        "fresh_holdout",
        other is None,
        None,
        None,
        "no comparison on this holdout has promoted before"
        if other is None
        else f"this very holdout has promoted version {other}; a second look at it is no evidence. "
        "Train for a later day",
    )


def _refit(evidence: PromotionEvidence, demands: PromotionDemands) -> Iterator[Check]:
    refit = evidence.refit or Agreement(None, None)
    close = refit.correlation is not None and refit.correlation >= demands.min_refit_correlation
    yield Check(
        "refit_ranks_alike",
        close,
        refit.correlation,
        demands.min_refit_correlation,
        f"scores of the model that serves and of the measured one: rank correlation "
        f"{_show(refit.correlation)}, expected at least {demands.min_refit_correlation:g}",
    )
    near = refit.shift is not None and abs(refit.shift) <= demands.max_refit_shift
    yield Check(
        "refit_scores_alike",
        near,
        refit.shift,
        demands.max_refit_shift,
        f"their means differ by {_show(refit.shift)} standard deviations, expected at most "
        f"{demands.max_refit_shift:g}",
    )


Demand = Callable[[PromotionEvidence, PromotionDemands], Iterator[Check]]

DEMANDS: tuple[Demand, ...] = (
    _measured,
    _holdout,
    _fresh,
    _absolute,
    _baselines,
    _champion,
    _slices,
    _refit,
)
"""Each yields checks; all must pass."""

# Level of the tests of slices.
_SIGNIFICANT = 0.05

_NOT_MEASURED = Difference(None, None, None)


def _interval(difference: Difference) -> str:
    bounds = f"{_show(difference.lower)} to {_show(difference.upper)}"
    return f"{_show(difference.estimate)} ({bounds})"


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
